// Package neigh is the kind of permanent and proxy neighbour entries.
package neigh

import (
	"fmt"
	"net/netip"
	"strings"

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

	// Protocol is who made a foreign entry; observed only.
	Protocol int
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

// Ops implements reconciler.Ops for neighbour entries.
type Ops struct{}

// Diff lists what differs between an observed and a desired entry of one ID.
func (Ops) Diff(observed, desired Neigh) (fields []resource.Field, inPlace bool) {
	if !strings.EqualFold(observed.MAC, desired.MAC) {
		fields = append(fields, resource.Field{Name: "lladdr", Before: observed.MAC, After: desired.MAC})
	}
	return fields, true
}

// Conflicts implements reconciler.Conflicter: one device has one entry for an address.
func (Ops) Conflicts(desired resource.State, foreign []Neigh) []resource.Conflict {
	var conflicts []resource.Conflict
	for _, f := range foreign {
		if _, ok := desired[f.ID()]; !ok {
			continue
		}
		owner := resource.Unmarked
		if f.Protocol != 0 {
			owner = resource.ProtocolOwner(f.Protocol)
		}
		conflicts = append(conflicts, resource.Conflict{
			ID:      f.ID(),
			Foreign: "neighbour " + f.text(),
			Owner:   owner,
			Fix:     fmt.Sprintf("take it away (%s neigh del %s)", desired.IPCommand(f.NetNS, false), f.ID().Name),
		})
	}
	return conflicts
}

// text is the entry as `ip neigh` prints it.
func (n Neigh) text() string {
	s := fmt.Sprintf("%s dev %s", n.IP, n.Dev)
	if n.Proxy {
		return s + " proxy"
	}
	return s + " lladdr " + n.MAC + " PERMANENT"
}
