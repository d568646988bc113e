// Package addr is the kind of addresses on links.
package addr

import (
	"net/netip"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "addr"

// Addr is one address on one device. IPv6 addresses are set nodad, so they can be bound at once; no address makes a
// prefix route (routes are resources of their own).
type Addr struct {
	NetNS  string
	Dev    string
	Prefix netip.Prefix // address and prefix length, not masked
	Link   resource.ID  // the link resource that makes Dev; zero for a device that isn't ours
	From   string

	// What follows is observed only.

	// Trouble says what is not as it should be: "tentative", "dadfailed", "prefix route". Empty when all is well. A foreign
	// one with disableIPv6 is no address, but the setting that keeps the wanted one from being added.
	Trouble string
	// Protocol is who made a foreign address, as far as the kernel says; 0 where it doesn't.
	Protocol int
	// Stray says that somebody else put the address on our device, so that nobody who asked plumb relies on it.
	Stray bool
}

// ID implements resource.Resource: "10.0.0.10/32 dev eth0".
func (a Addr) ID() resource.ID {
	return resource.ID{Kind: Kind, NetNS: a.NetNS, Name: a.Prefix.String() + " dev " + a.Dev}
}

// After implements resource.Resource.
func (a Addr) After() []resource.ID { return one(a.Link) }

// DiesWith implements resource.Resource.
func (a Addr) DiesWith() []resource.ID { return one(a.Link) }

// Requires implements resource.Resource.
func (a Addr) Requires() []features.Feature {
	if a.Prefix.Addr().Is6() {
		return []features.Feature{features.IPv6}
	}
	return nil
}

// Origin implements resource.Resource.
func (a Addr) Origin() string { return a.From }

// Disruption implements resource.Disrupter: without its address a pod's connections end.
func (a Addr) Disruption(action resource.Action, _ resource.Resource) resource.Disruption {
	if action == resource.Delete && a.NetNS != "" && !a.Stray {
		return resource.DisruptsPod
	}
	return resource.DisruptsNothing
}

func one(id resource.ID) []resource.ID {
	if id == (resource.ID{}) {
		return nil
	}
	return []resource.ID{id}
}

// Diff lists what differs between an observed and a desired address of one ID. Nothing can be mended in place.
func (Ops) Diff(observed, desired Addr) (fields []resource.Field, inPlace bool) {
	if observed.Trouble != desired.Trouble {
		fields = append(fields, resource.Field{Name: "state", Before: observed.Trouble, After: "usable, no prefix route"})
	}
	return fields, false
}

// Ops implements reconciler.Ops for addresses.
type Ops struct{}
