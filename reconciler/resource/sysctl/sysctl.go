// Package sysctl is the kind of kernel settings under /proc/sys. No mark is possible on them: the value from before the
// first change is recorded in the run folder and comes back on delete.
package sysctl

import (
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "sysctl"

// Sysctl is one setting in one namespace.
type Sysctl struct {
	NetNS string
	// Key is the name with dots; a part that itself holds a dot (a device eth0.5) is written with a slash, as sysctl(8) does.
	Key   string
	Value string // white space is folded when compared
	Link  resource.ID
	// OnlyFrom, if set, is the one present value that is changed; any other is left alone and counts as right.
	// (accept_ra: 1 must become 2 before forwarding is switched on; 0 stays 0.)
	OnlyFrom string
	// Follow is another setting that must be in place first; zero for none.
	Follow resource.ID
	// MaySever says that the change can cut the operator's own session (forwarding on a router learnt by RA).
	MaySever bool
	From     string
}

// ID implements resource.Resource.
func (s Sysctl) ID() resource.ID { return resource.ID{Kind: Kind, NetNS: s.NetNS, Name: s.Key} }

// After implements resource.Resource.
func (s Sysctl) After() []resource.ID {
	var ids []resource.ID
	if s.NetNS != "" {
		ids = append(ids, resource.ID{Kind: "netns", Name: s.NetNS})
	}
	if s.Link != (resource.ID{}) {
		ids = append(ids, s.Link)
	}
	if s.Follow != (resource.ID{}) {
		ids = append(ids, s.Follow)
	}
	return ids
}

// DiesWith implements resource.Resource: the namespace and the device.
func (s Sysctl) DiesWith() []resource.ID {
	var ids []resource.ID
	if s.NetNS != "" {
		ids = append(ids, resource.ID{Kind: "netns", Name: s.NetNS})
	}
	if s.Link != (resource.ID{}) {
		ids = append(ids, s.Link)
	}
	return ids
}

// Requires implements resource.Resource.
func (s Sysctl) Requires() []features.Feature { return nil }

// Origin implements resource.Resource.
func (s Sysctl) Origin() string { return s.From }

// Disruption implements resource.Disrupter.
func (s Sysctl) Disruption(resource.Action, resource.Resource) resource.Disruption {
	if s.MaySever {
		return resource.DisruptsSession
	}
	return resource.DisruptsNothing
}
