package link

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Observe returns the devices that carry our group (or, should somebody have cleared that, our alias). A pair is returned
// once, under its end in the pod. Of foreign ones it returns those with the name of a desired link or of its other end,
// the children of desired parents, and what another plumb node has in this root namespace.
func (Ops) Observe(ctx context.Context, h *host.Host, wanted []Link) (owned, foreign []Link, err error) {
	names, err := h.Namespaces(ctx)
	if err != nil {
		return nil, nil, err
	}
	o, err := newObserver(h, wanted)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		if name == "" {
			continue
		}
		if err := o.pod(name); err != nil {
			return nil, nil, err
		}
	}
	o.node()
	return o.owned, o.foreign, nil
}

// observer puts the devices of all namespaces together.
type observer struct {
	h       *host.Host
	root    []*host.Link
	byIndex map[int]*host.Link

	names   map[resource.ID]bool   // of desired links
	peers   map[string]resource.ID // desired links by the name of the root end
	macs    map[string]resource.ID // desired links of pods
	parents map[string]bool

	ends           map[int]resource.ID // root ends that belong to a pair already, with its ID
	seen           map[resource.ID]bool
	owned, foreign []Link
}

func newObserver(h *host.Host, wanted []Link) (*observer, error) {
	o := &observer{h: h, byIndex: map[int]*host.Link{}, names: map[resource.ID]bool{}, peers: map[string]resource.ID{},
		macs: map[string]resource.ID{}, parents: map[string]bool{}, ends: map[int]resource.ID{}, seen: map[resource.ID]bool{}}
	ns, err := h.NS("")
	if err != nil {
		return nil, err
	}
	if o.root, err = ns.Links(); err != nil {
		return nil, err
	}
	for _, l := range o.root {
		o.byIndex[l.Index] = l
	}
	for _, w := range wanted {
		o.names[w.ID()] = true
		if w.NetNS != "" && w.MAC != "" && !w.Adopted { // which has the name that the files give
			o.macs[w.MAC] = w.ID()
		}
		if w.Peer != nil {
			o.peers[w.Peer.Name] = w.ID()
		}
		if w.Parent != "" {
			o.parents[w.Parent] = true
		}
	}
	return o, nil
}

// pod looks at the devices of one pod.
func (o *observer) pod(name string) error {
	ns, err := o.h.NS(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	links, err := ns.Links()
	if err != nil {
		return fmt.Errorf("namespace %s: %w", name, err)
	}
	for _, l := range links {
		if l.RawFlags&unix.IFF_LOOPBACK != 0 {
			continue
		}
		end, err := o.otherEnd(ns, l)
		if err != nil {
			return err
		}
		if !o.h.Ours(l) && (end == nil || l.Kind == "" || isOther(o.h, l)) {
			if o.names[For(name, l.Name)] {
				o.foreign = append(o.foreign, o.describe(name, l, nil))
			}
			continue
		}
		found := o.describe(name, l, end)
		id, ok := o.macs[found.MAC]
		found.Renamed = ok && id.NetNS == name && id != found.ID()
		if end != nil {
			o.ends[end.Index] = found.ID()
		}
		o.seen[found.ID()] = true
		o.owned = append(o.owned, found)
	}
	return nil
}

// otherEnd finds the end in the root namespace that belongs to a pair's end in a pod, if it is ours. Both must name each
// other's index; and since indexes are counted anew in every namespace, two pods that claim one end are told apart by the
// number that the root namespace has for theirs.
func (o *observer) otherEnd(ns *host.NS, l *host.Link) (*host.Link, error) {
	end := o.byIndex[l.ParentIndex]
	if !pair(l.Kind) || end == nil || end.Kind != l.Kind || end.ParentIndex != l.Index || !o.h.Ours(end) {
		return nil, nil
	}
	other, claimed := o.ends[end.Index]
	if !claimed {
		return end, nil
	}
	mine, err := o.nsid(ns)
	if err != nil || mine != end.NetNsID {
		return nil, err
	}
	i := slices.IndexFunc(o.owned, func(l Link) bool { return l.ID() == other })
	o.owned[i].Peer = nil
	return end, nil
}

// nsid is the number that the root namespace has for another.
func (o *observer) nsid(ns *host.NS) (int, error) {
	fd, err := ns.FD()
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	root, err := o.h.NS("")
	if err != nil {
		return 0, err
	}
	id, err := root.Handle().GetNetNsIdByFd(fd)
	if err != nil {
		return 0, fmt.Errorf("find the id of namespace %s: %w", ns.Name, err)
	}
	return id, nil
}

// node looks at the devices of the root namespace that belong to no pair that was found.
func (o *observer) node() {
	for _, l := range o.root {
		if _, ok := o.ends[l.Index]; ok || l.RawFlags&unix.IFF_LOOPBACK != 0 {
			continue
		}
		found := o.describe("", l, nil)
		for _, name := range l.AltNames {
			// The kernel gives a device's further names to no other device.
			if _, isPeer := o.peers[name]; isPeer || o.names[For("", name)] {
				other := o.describe("", l, nil)
				other.Name, other.Owner = name, "another name of "+l.Name
				o.foreign = append(o.foreign, other)
			}
		}
		if m := o.byIndex[l.MasterIndex]; m != nil && o.parents[l.Name] && takesFrames(m.Kind) {
			busy := o.describe("", l, nil)
			busy.Owner = "a port of " + m.Kind + " " + m.Name
			o.foreign = append(o.foreign, busy)
		}
		if !o.h.Ours(l) {
			_, isPeer := o.peers[l.Name]
			if isPeer || found.Node != "" || o.names[found.ID()] || found.Parent != "" && o.parents[found.Parent] {
				o.foreign = append(o.foreign, found)
			}
			continue
		}
		// An end that lost its other one is in the way of the desired pair: the pair is replaced, not created.
		if id, ok := o.peers[l.Name]; ok && pair(l.Kind) && !o.seen[id] {
			found = Link{NetNS: id.NetNS, Name: id.Name, Type: l.Kind, Faults: lone, Peer: o.peer(l)}
		}
		o.seen[found.ID()] = true
		o.owned = append(o.owned, found)
	}
}

// describe turns a device into a resource; end is the root namespace's end of a pair, or nil.
func (o *observer) describe(pod string, l, end *host.Link) Link {
	r := Link{NetNS: pod, Name: l.Name, Type: l.Type(), Mode: modeName(l), MTU: l.MTU}
	if l.Kind != IPvlan && len(l.HardwareAddr) == 6 {
		r.MAC = l.HardwareAddr.String()
	}
	if l.Kind == Macvlan || l.Kind == IPvlan {
		if p := o.byIndex[l.ParentIndex]; p != nil && (pod != "" || l.NetNsID < 0) {
			r.Parent = p.Name
		}
	}
	if !o.h.Ours(l) && end == nil {
		r.Owner = resource.Unmarked
		if node, other := o.h.OtherNode(l.Alias); other {
			r.Owner, r.Node = "plumb node "+node+"'s", node
		}
		return r
	}
	found := o.faults(pod, l)
	if end != nil {
		r.Peer = o.peer(end)
		for _, f := range o.faults(pod, end) {
			found = append(found, "peer "+f)
		}
	}
	r.Faults = strings.Join(found, ", ")
	return r
}

func (o *observer) peer(end *host.Link) *Peer {
	p := &Peer{Name: end.Name, MAC: end.HardwareAddr.String(), MTU: end.MTU, Hairpin: end.Hairpin}
	if m := o.byIndex[end.MasterIndex]; m != nil {
		p.Master = m.Name
	}
	return p
}

// faults lists what is not as settle makes it.
func (o *observer) faults(pod string, l *host.Link) (found []string) {
	if l.Group != resource.Group {
		found = append(found, "unmarked")
	}
	if l.Alias != o.h.Alias(pod) {
		found = append(found, "without alias")
	}
	if l.AddrGenMode >= 0 && l.AddrGenMode != addrGenNone {
		found = append(found, "with automatic link-local addresses")
	}
	if l.Kind == Bridge && (l.STP != 0 || l.ForwardDelay != 0 || l.Snooping) {
		found = append(found, "with stp, a forward delay or multicast snooping")
	}
	if l.Kind == Netkit && (l.Policy != 0 || l.PeerPolicy != 0) {
		found = append(found, "dropping")
	}
	if !l.Up() {
		found = append(found, "down")
	}
	return found
}

func isOther(h *host.Host, l *host.Link) bool {
	_, other := h.OtherNode(l.Alias)
	return other
}

// takesFrames reports whether a master takes the frames of its ports before children of theirs could: the kernel lets a
// device have one or the other.
func takesFrames(kind string) bool {
	return kind == Bridge || kind == "bond" || kind == "team" || kind == "openvswitch"
}

func pair(kind string) bool { return kind == Veth || kind == Netkit }

// The kernel's numbers for modes.
const (
	macvlanBridge = 4
	netkitL2      = 0
	addrGenNone   = 1
)

var (
	ipvlanModes  = []string{"l2", "l3", "l3s"}
	netkitModes  = []string{"l2", "l3"}
	macvlanModes = map[uint32]string{1: "private", 2: "vepa", macvlanBridge: "bridge", 8: "passthru", 16: "source"}
)

func modeName(l *host.Link) string {
	modes := map[string][]string{IPvlan: ipvlanModes, Netkit: netkitModes}[l.Kind]
	switch {
	case l.Kind == Macvlan:
		return macvlanModes[l.Mode]
	case int(l.Mode) < len(modes):
		return modes[l.Mode]
	}
	return ""
}
