package endpoint

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Observe implements reconciler.Ops. The maps know nothing of pods: an address or a MAC is the pod's that should have it,
// else the pod's that has it, else nobody's.
func (Ops) Observe(ctx context.Context, h *host.Host, wanted []Endpoint) (owned, foreign []Endpoint, err error) {
	o := &observer{left: map[string]entry{}, byPod: make(map[string]*Endpoint, len(wanted))}
	addresses, err := dump[bpf.Address, bpf.Endpoint](o, h, endpoints, wanted)
	if err != nil {
		return nil, nil, err
	}
	senders, err := dump[[8]byte, uint32](o, h, macs, wanted)
	if err != nil {
		return nil, nil, err
	}
	cookies, err := dump[uint64, uint32](o, h, namespaces, wanted)
	if err != nil {
		return nil, nil, err
	}
	limits, err := dump[bpf.Address, bpf.Pace](o, h, paces, wanted)
	if err != nil {
		return nil, nil, err
	}
	if len(addresses)+len(senders)+len(cookies)+len(limits) == 0 {
		return nil, nil, nil
	}
	all, err := o.look(ctx, h)
	if err != nil {
		return nil, nil, err
	}
	for k, v := range addresses {
		dev := o.device(v.Ifindex)
		o.left[k.Addr().String()] = entry{text(AttachName(v.Attach), dev, v.MAC.String(), v.HostMAC.String(), int(v.MTU)), dev}
	}
	for k, v := range limits {
		pace := with + v.With.Addr().String()
		if v.Rate != 0 {
			pace = resource.RateText(v.Rate)
		}
		o.left[pacePrefix+k.Addr().String()] = entry{pace, ""}
	}
	for k, index := range senders {
		if k[6] != 0 || k[7] != 0 {
			o.left[oddPrefix+hex.EncodeToString(k[:])] = entry{"dev " + o.device(index), ""}
			continue
		}
		o.left[macPrefix+net.HardwareAddr(k[:6]).String()] = entry{"dev " + o.device(index), ""}
	}
	if err := o.cookies(h, all, cookies); err != nil {
		return nil, nil, err
	}
	for _, w := range wanted {
		for _, a := range w.Addresses {
			o.give(w.NetNS, a.String())
			o.give(w.NetNS, pacePrefix+a.String())
		}
		if w.hasMAC() {
			o.give(w.NetNS, macPrefix+strings.ToLower(w.MAC))
		}
	}
	if err := o.find(all); err != nil {
		return nil, nil, err
	}
	return o.owned(), nil, nil
}

// observer sorts the maps' entries by their owners.
type observer struct {
	devs  map[uint32]string // of the root namespace
	maps  []resource.ID     // that were read
	left  map[string]entry  // whose owner isn't known yet, by name
	byPod map[string]*Endpoint
}

// entry is one entry in words, with its device if it is an address's.
type entry struct{ text, dev string }

// dump reads a map: the one that is wanted, else the last of that base, which a new one is copied from.
func dump[K comparable, V any](o *observer, h *host.Host, base string, wanted []Endpoint) (map[K]V, error) {
	pins, err := pinned(h, base)
	if err != nil {
		return nil, err
	}
	name := wantedMap(base, wanted)
	if i := slices.IndexFunc(pins, func(m host.BPFMap) bool { return m.Name == name }); i >= 0 {
		pins = pins[i : i+1]
	}
	pins = pins[max(0, len(pins)-1):]
	all := map[K]V{}
	for _, m := range pins {
		o.maps = append(o.maps, resource.ID{Kind: "bpfmap", Name: m.Name})
		if err := bpf.Each(m.Map, func(k K, v V) { all[k] = v }); err != nil {
			return nil, fmt.Errorf("read eBPF map %s: %w", m.Name, err)
		}
	}
	return all, nil
}

// wantedMap is the name of the map of a base that the wanted endpoints are to be in.
func wantedMap(base string, wanted []Endpoint) string {
	for _, w := range wanted {
		for _, id := range w.Maps {
			if strings.HasPrefix(id.Name, base+".") {
				return id.Name
			}
		}
	}
	return ""
}

// look lists the namespaces, the root first, and reads its devices.
func (o *observer) look(ctx context.Context, h *host.Host) ([]*host.NS, error) {
	names, err := h.Namespaces(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]*host.NS, len(names))
	for i, name := range names {
		if all[i], err = h.NS(name); err != nil {
			return nil, err
		}
	}
	links, err := all[0].Links()
	if err != nil {
		return nil, err
	}
	o.devs = make(map[uint32]string, len(links))
	for _, l := range links {
		o.devs[uint32(l.Index)] = l.Name
	}
	return all, nil
}

// cookies gives each namespace what is known of it. What remains is of none that there is.
func (o *observer) cookies(h *host.Host, all []*host.NS, there map[uint64]uint32) error {
	if len(there) == 0 {
		return nil
	}
	cookies, err := h.Cookies(all...)
	if err != nil {
		return err
	}
	for i, c := range cookies {
		if _, ok := there[c]; ok {
			o.of(all[i].Name).Held[namespace] = known
		}
	}
	for _, c := range cookies {
		delete(there, c)
	}
	for c := range there {
		o.left[cookiePrefix+strconv.FormatUint(c, 10)] = entry{known, ""}
	}
	return nil
}

// find gives pods the addresses and MACs that they have and none should have.
func (o *observer) find(all []*host.NS) error {
	if len(o.left) == 0 {
		return nil
	}
	for _, ns := range all[1:] {
		addrs, err := ns.Addrs()
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); ok {
				o.give(ns.Name, ip.Unmap().String())
				o.give(ns.Name, pacePrefix+ip.Unmap().String())
			}
		}
		links, err := ns.Links()
		if err != nil {
			return err
		}
		for _, l := range links {
			o.give(ns.Name, macPrefix+l.HardwareAddr.String())
		}
	}
	return nil
}

// of is the observed endpoint of a pod.
func (o *observer) of(pod string) *Endpoint {
	if o.byPod[pod] == nil {
		o.byPod[pod] = &Endpoint{NetNS: pod, Held: map[string]string{}, Maps: o.maps}
	}
	return o.byPod[pod]
}

// give gives an entry to a pod, if it is there and nobody's yet.
func (o *observer) give(pod, name string) {
	found, ok := o.left[name]
	if !ok {
		return
	}
	delete(o.left, name)
	e := o.of(pod)
	e.Held[name] = found.text
	if e.Dev == "" || found.dev != "" && found.dev < e.Dev {
		e.Dev = found.dev // one of them, should they differ
	}
}

// owned lists the observed endpoints in their order; what is left over is one of its own.
func (o *observer) owned() (all []Endpoint) {
	if len(o.left) > 0 {
		stale := Endpoint{Stale: true, Held: map[string]string{}, Maps: o.maps}
		for name, e := range o.left {
			stale.Held[name] = e.text
		}
		all = append(all, stale)
	}
	for _, e := range o.byPod {
		all = append(all, *e)
	}
	slices.SortFunc(all, func(a, b Endpoint) int { return a.ID().Compare(b.ID()) })
	return all
}

// device is the name of a device of the root namespace, or its number where it is gone.
func (o *observer) device(index uint32) string {
	if name, ok := o.devs[index]; ok {
		return name
	}
	return gone + strconv.FormatUint(uint64(index), 10)
}
