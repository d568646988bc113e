// Package route is the kind of unicast and unreachable routes.
package route

import (
	"fmt"
	"net/netip"
	"strconv"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "route"

// MainTable is the kernel's main routing table.
const MainTable = 254

// Route is one route with one next hop, or an unreachable route. Its key in the kernel is (Dst, Table, Metric).
type Route struct {
	NetNS  string
	Dst    netip.Prefix // masked; 0.0.0.0/0 and ::/0 are the default routes
	Table  int          // 0 is not valid: say MainTable
	Metric int          // priority; 0 is valid for IPv4, the kernel turns 0 into 1024 for IPv6: say 1024 there
	// Unreachable makes the kernel answer "host unreachable" at once. Dev, Gateway and Src are empty then.
	Unreachable bool
	Dev         string
	Gateway     netip.Addr // zero: directly on Dev
	OnLink      bool       // the gateway is taken to be on Dev whatever the addresses say
	Src         netip.Addr // preferred source address; zero: the kernel's choice
	// MTU is what the way carries where that is less than Dev does; 0 where it isn't.
	MTU  int
	Link resource.ID
	// PodPrefix says that Dst is a range of pod addresses: foreign addresses and routes inside it are conflicts.
	PodPrefix bool
	From      string

	// What follows is observed only.

	// Trouble says what of an own route isn't as any desired one: "2 next hops", "tos 8". Empty when all is well.
	Trouble string
	// Protocol, Type and Connected describe a foreign route: who made it, its type ("unicast", "local", "blackhole",
	// ...), and whether the kernel or a router's announcement made it for a network that a device is on.
	Protocol  int
	Type      string
	Connected bool
}

// ID implements resource.Resource: "10.0.0.10/32", with table and metric where they aren't the usual ones.
func (r Route) ID() resource.ID {
	name := r.Dst.String()
	if r.Dst.Bits() == 0 {
		name = "default"
		if r.Dst.Addr().Is6() {
			name = "default6"
		}
	}
	if r.Table != MainTable {
		name += fmt.Sprintf(" table %d", r.Table)
	}
	if usual := map[bool]int{true: 1024}[r.Dst.Addr().Is6()]; r.Metric != usual {
		name += fmt.Sprintf(" metric %d", r.Metric)
	}
	return resource.ID{Kind: Kind, NetNS: r.NetNS, Name: name}
}

// After implements resource.Resource.
func (r Route) After() []resource.ID {
	if r.Link == (resource.ID{}) {
		return nil
	}
	return []resource.ID{r.Link}
}

// DiesWith implements resource.Resource.
func (r Route) DiesWith() []resource.ID { return r.After() }

// Requires implements resource.Resource.
func (r Route) Requires() []features.Feature {
	if r.Dst.Addr().Is6() {
		return []features.Feature{features.IPv6}
	}
	return nil
}

// Origin implements resource.Resource.
func (r Route) Origin() string { return r.From }

// PodRange implements resource.PodPrefixer.
func (r Route) PodRange() (netip.Prefix, bool) { return r.Dst, r.PodPrefix }

// Ops implements reconciler.Ops for routes.
type Ops struct{}

// Diff lists what differs between an observed and a desired route of one key. Everything that a desired route can say
// is mended in place, without a moment in which packets find no route.
func (Ops) Diff(observed, desired Route) (fields []resource.Field, inPlace bool) {
	field := func(name, before, after string) {
		if before != after {
			fields = append(fields, resource.Field{Name: name, Before: before, After: after})
		}
	}
	field("type", observed.kernelType(), desired.kernelType())
	field("dev", observed.Dev, desired.Dev)
	field("via", addrText(observed.Gateway), addrText(desired.Gateway))
	field("onlink", fmt.Sprint(observed.OnLink), fmt.Sprint(desired.OnLink))
	field("src", addrText(observed.Src), addrText(desired.Src))
	field("mtu", mtuText(observed.MTU), mtuText(desired.MTU))
	field("next hops", observed.Trouble, desired.Trouble)
	return fields, observed.Trouble == ""
}

func (r Route) kernelType() string {
	switch {
	case r.Type != "":
		return r.Type
	case r.Unreachable:
		return "unreachable"
	}
	return "unicast"
}

func mtuText(mtu int) string {
	if mtu == 0 {
		return ""
	}
	return strconv.Itoa(mtu)
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
