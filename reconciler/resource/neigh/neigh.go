// Package neigh is the kind of permanent and proxy neighbour entries.
package neigh

import (
	"net/netip"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "neigh"

// Neigh is a permanent neighbour entry, or a proxy entry: the device answers ARP and ND for IP.
type Neigh struct {
	NetNS string
	Dev   string
	IP    netip.Addr
	MAC   string // "" for a proxy entry
	Proxy bool
	Link  resource.ID
	From  string
}

// ID implements resource.Resource: "10.0.0.10 dev eth0".
func (n Neigh) ID() resource.ID {
	name := n.IP.String() + " dev " + n.Dev
	if n.Proxy {
		name = "proxy " + name
	}
	return resource.ID{Kind: Kind, NetNS: n.NetNS, Name: name}
}

// After implements resource.Resource.
func (n Neigh) After() []resource.ID {
	if n.Link == (resource.ID{}) {
		return nil
	}
	return []resource.ID{n.Link}
}

// DiesWith implements resource.Resource.
func (n Neigh) DiesWith() []resource.ID { return n.After() }

// Requires implements resource.Resource.
func (n Neigh) Requires() []features.Feature {
	if n.IP.Is6() {
		return []features.Feature{features.IPv6}
	}
	return nil
}

// Origin implements resource.Resource.
func (n Neigh) Origin() string { return n.From }
