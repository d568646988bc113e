package link

import (
	"fmt"
	"strconv"

	"plumb.internal/plumb/reconciler/resource"
)

// Ops implement the kind's operations.
type Ops struct{}

// lone is the fault of a pair whose end in the pod is missing.
const lone = "the pod's end is missing"

// Diff lists what differs. MTU, master and faults are mended in place; a device of another type, mode, parent or MAC is
// another device. (A new MAC would empty the neighbour table of the device, permanent entries included.)
func (Ops) Diff(observed, desired Link) (fields []resource.Field, inPlace bool) {
	inPlace = true
	differ := func(name, before, after string, mendable bool) {
		if before != after {
			fields = append(fields, resource.Field{Name: name, Before: before, After: after})
			inPlace = inPlace && mendable
		}
	}
	mtu := func(name string, before, after int) {
		if after != 0 { // else the kernel's choice
			differ(name, strconv.Itoa(before), strconv.Itoa(after), true)
		}
	}
	mac := func(name, before, after string) {
		if after != "" {
			differ(name, before, after, false)
		}
	}
	differ("type", observed.Type, desired.Type, false)
	differ("mode", observed.Mode, desired.Mode, false)
	differ("parent", observed.Parent, desired.Parent, false)
	mtu("mtu", observed.MTU, desired.MTU)
	mac("address", observed.MAC, desired.MAC)
	switch was, is := observed.Peer, desired.Peer; {
	case was != nil && is != nil:
		differ("peer", was.Name, is.Name, false)
		mtu("peer mtu", was.MTU, is.MTU)
		mac("peer address", was.MAC, is.MAC)
		differ("master", was.Master, is.Master, true)
		differ("hairpin", strconv.FormatBool(was.Hairpin), strconv.FormatBool(is.Hairpin), true)
	case was != nil:
		differ("peer", was.Name, "", false)
	case is != nil:
		differ("peer", "", is.Name, false)
	}
	differ("state", observed.Faults, "", observed.Faults != lone)
	return fields, inPlace
}

// Conflicts names the devices of other owners that have the name of a link or of its other end, or that keep a parent
// busy with children of another kind. A root namespace is one node's: routes and rules don't say of which they are, so what
// another node has there is a conflict, whatever is desired.
func (Ops) Conflicts(desired resource.State, foreign []Link) []resource.Conflict {
	var conflicts []resource.Conflict
	for _, f := range foreign {
		if f.Node != "" && f.NetNS == "" {
			conflicts = append(conflicts, resource.Conflict{ID: f.ID(), Foreign: "link " + f.Describe(), Owner: f.Owner,
				Fix: fmt.Sprintf("two nodes can't share a network namespace: run one of them in another, or remove what %s has here (plumb destroy --node %s)",
					f.Node, f.Node)})
			break
		}
	}
	for _, id := range desired.Where(func(r resource.Resource) bool { _, ok := r.(Link); return ok }) {
		d := desired[id].(Link)
		for _, f := range foreign {
			if f.Node != "" && f.NetNS == "" {
				continue
			}
			c := resource.Conflict{ID: id, Foreign: "link " + f.Describe(), Owner: f.Owner}
			switch {
			case f.ID() == id && id.NetNS != "":
				c.Fix = fmt.Sprintf("remove it, or set pods.%s.interface to another name", id.NetNS)
			case f.ID() == id, f.NetNS == "" && d.Peer != nil && d.Peer.Name == f.Name:
				c.Fix = "remove or rename it"
			case d.Parent != "" && f.NetNS == "" && f.Name == d.Parent:
				c.Fix = fmt.Sprintf("take %s out of it, attach to another uplink (the bridge or bond itself can be one), or use veth", d.Parent)
			case d.Parent != "" && f.NetNS == "" && f.Parent == d.Parent && f.excludes(d):
				c.Fix = fmt.Sprintf("remove it, or attach to another uplink: %s carries one kind and mode of children", d.Parent)
			default:
				continue
			}
			conflicts = append(conflicts, c)
		}
	}
	return conflicts
}

// excludes reports whether a parent can't have child d beside child l.
func (l Link) excludes(d Link) bool {
	return l.Type != d.Type || l.Type == IPvlan && l.Mode != d.Mode || l.Type == Macvlan && l.Mode == "passthru"
}
