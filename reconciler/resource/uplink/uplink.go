// Package uplink is the kind of the devices that packets of pods go to past the node's stack, and come from: the entries of map
// "uplinks".
//
// The programs of both directions ask for the entry. So it comes when all of them are attached, and goes before any of them
// does: what stops in between leaves a node whose packets pass the stack both ways, or neither.
package uplink

import (
	"strconv"
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "uplink"

// Uplink is one device. No ifindex is in it: it is found out when the entry is written.
type Uplink struct {
	Dev  string // of a device that is there no longer, "#" and its number
	MTU  int    // the largest packet that goes past the stack
	Maps []resource.ID
	From string
}

// gone begins the number of a device that is there no longer.
const gone = "#"

// For returns the ID of a device's entry.
func For(dev string) resource.ID { return resource.ID{Kind: Kind, Name: dev} }

// ID implements resource.Resource.
func (u Uplink) ID() resource.ID { return For(u.Dev) }

// After implements resource.Resource: its map.
func (u Uplink) After() []resource.ID { return u.Maps }

// Switches implements resource.Switch.
func (u Uplink) Switches() []resource.Kind { return []resource.Kind{"bpflink"} }

// DiesWith implements resource.Resource: the entry outlives the device.
func (u Uplink) DiesWith() []resource.ID { return nil }

// Means implements resource.Means.
func (u Uplink) Means() bool { return true }

// Requires implements resource.Resource.
func (u Uplink) Requires() []features.Feature { return nil }

// Origin implements resource.Resource.
func (u Uplink) Origin() string { return u.From }

// Describe implements resource.Describer: "eth0 reached past the stack, mtu 1500".
func (u Uplink) Describe() string {
	return u.Dev + " reached past the stack, mtu " + strconv.Itoa(u.MTU)
}

// Restored implements resource.Restorer: a device that is gone doesn't come back.
func (u Uplink) Restored(*resource.Found) resource.Resource {
	if strings.HasPrefix(u.Dev, gone) {
		return nil
	}
	return u
}

// Ops implements reconciler.Ops for uplinks.
type Ops struct{}

// Diff lists what differs.
func (Ops) Diff(observed, desired Uplink) (fields []resource.Field, inPlace bool) {
	if observed.MTU != desired.MTU {
		fields = append(fields, resource.Field{Name: "mtu", Before: strconv.Itoa(observed.MTU), After: strconv.Itoa(desired.MTU)})
	}
	return fields, true
}
