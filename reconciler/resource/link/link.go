// Package link is the kind of network devices that plumb creates: pairs (veth, netkit), bridges, macvlan and ipvlan
// children.
package link

import (
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "link"

// The types of links.
const (
	Veth    = "veth"
	Netkit  = "netkit"
	Bridge  = "bridge"
	Macvlan = "macvlan"
	IPvlan  = "ipvlan"
)

// Link is one device, or one pair of devices.
//
// A pair is one resource: its ID names the end inside the pod, Peer is the end in the root namespace. Both ends come
// from one kernel call, the root end carries the mark, and both die together.
type Link struct {
	NetNS string // pod, or "" for the root namespace
	Name  string // device name inside NetNS
	Type  string
	Mode  string // macvlan: "bridge"; ipvlan: "l2" or "l3"; netkit: "l2"; else ""
	MTU   int    // bytes
	// MAC is ours by hash ("02:.."); "" where the type has none of its own (ipvlan).
	MAC string
	// Parent is the device in the root namespace that a macvlan or ipvlan child sits on.
	Parent string
	// Peer is the root namespace's end of a pair.
	Peer *Peer
	// Adopted says that NetNS is an adopted namespace, which doesn't go when the link goes.
	Adopted bool
	From    string // the field that asks for it

	// Faults is what an observation found that is not as plumb makes it, such as "down"; "" in desired state.
	Faults string
	// Renamed says that an observed link is a desired one that somebody gave another name.
	Renamed bool `json:",omitempty"`
	// Owner is whose a foreign link is, in words; "" otherwise.
	Owner string
	// Node is the other plumb node that made a foreign link, if one did.
	Node string
}

// Peer is the end of a pair in the root namespace.
type Peer struct {
	Name   string
	MAC    string
	MTU    int
	Master string // the bridge that it is a port of, or ""
	// Hairpin lets the port send out frames that came in by it.
	Hairpin bool
}

// For returns the ID of a device.
func For(netns, name string) resource.ID {
	return resource.ID{Kind: Kind, NetNS: netns, Name: name}
}

// ID implements resource.Resource.
func (l Link) ID() resource.ID { return For(l.NetNS, l.Name) }

// After implements resource.Resource: the namespace, the parent and the bridge. A child carries no more than its parent does
// when it is made.
func (l Link) After() []resource.ID {
	ids := l.DiesWith()
	if l.Parent != "" {
		ids = append(ids, resource.ID{Kind: "nic", Name: l.Parent})
	}
	if l.Peer != nil && l.Peer.Master != "" {
		ids = append(ids, For("", l.Peer.Master))
	}
	return ids
}

// DiesWith implements resource.Resource: the namespace and the parent; a port outlives its bridge.
func (l Link) DiesWith() []resource.ID {
	var ids []resource.ID
	if l.NetNS != "" {
		ids = append(ids, resource.ID{Kind: "netns", Name: l.NetNS})
	}
	if l.Parent != "" {
		ids = append(ids, For("", l.Parent))
	}
	return ids
}

// Requires implements resource.Resource.
func (l Link) Requires() []features.Feature {
	switch {
	case l.Type == Veth:
		return []features.Feature{features.LinkVeth}
	case l.Type == Netkit:
		return []features.Feature{features.LinkNetkit}
	case l.Type == Bridge:
		return []features.Feature{features.LinkBridge}
	case l.Type == Macvlan:
		return []features.Feature{features.LinkMacvlan}
	case l.Mode == "l3":
		return []features.Feature{features.LinkIPvlanL3}
	}
	return []features.Feature{features.LinkIPvlanL2}
}

// Origin implements resource.Resource.
func (l Link) Origin() string { return l.From }

// Claims implements resource.Claimer: a parent has one kind of children and, for ipvlan, one mode.
func (l Link) Claims() []resource.Claim {
	if l.Parent == "" {
		return nil
	}
	return []resource.Claim{{Key: "parent " + l.Parent, Value: l.Type + " " + l.Mode}}
}

// Disruption implements resource.Disrupter. To put right what somebody changed by hand disrupts nothing.
func (l Link) Disruption(action resource.Action, from resource.Resource) resource.Disruption {
	before, ok := from.(Link)
	switch {
	case action == resource.Create || action == resource.Update:
		return resource.DisruptsNothing
	case action == resource.Replace && ok && before.drifted(l), action == resource.Delete && l.Renamed:
		return resource.DisruptsNothing
	case l.NetNS == "":
		return resource.DisruptsLink
	}
	return resource.DisruptsPod
}

// drifted reports whether l differs from what is desired in nothing that the files could have asked for before: MACs and
// the names of peers follow from those of the node and the pod, and a macvlan has one mode.
func (l Link) drifted(desired Link) bool {
	if l.Type != desired.Type || l.Parent != desired.Parent || (l.Mode != desired.Mode && l.Type != Macvlan) {
		return false
	}
	fields, inPlace := Ops{}.Diff(l, desired)
	return len(fields) > 0 && !inPlace
}
