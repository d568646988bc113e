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

func one(id resource.ID) []resource.ID {
	if id == (resource.ID{}) {
		return nil
	}
	return []resource.ID{id}
}
