// Package rule is the kind of policy routing rules.
package rule

import (
	"fmt"
	"net/netip"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "rule"

// Rule sends packets from Src to a table.
type Rule struct {
	NetNS    string
	Priority int
	Src      netip.Prefix
	Table    int
	From     string

	// What follows is observed only.

	// Rest is what else the rule says, as `ip rule` prints it: "to 192.0.2.0/24 fwmark 0x1". Empty on desired ones.
	Rest string
	// Dst is where a foreign rule's packets go to, if it says so and means just those.
	Dst netip.Prefix
	// Protocol is who made a foreign rule.
	Protocol int
}

// ID implements resource.Resource: "1000: from 10.0.0.10/32 lookup 112".
func (r Rule) ID() resource.ID {
	return resource.ID{Kind: Kind, NetNS: r.NetNS, Name: fmt.Sprintf("%d: from %s lookup %d", r.Priority, r.Src, r.Table)}
}

// After implements resource.Resource.
func (r Rule) After() []resource.ID {
	if r.NetNS == "" {
		return nil
	}
	return []resource.ID{{Kind: "netns", Name: r.NetNS}}
}

// DiesWith implements resource.Resource.
func (r Rule) DiesWith() []resource.ID { return r.After() }

// Requires implements resource.Resource.
func (r Rule) Requires() []features.Feature {
	if r.Src.Addr().Is6() {
		return []features.Feature{features.IPv6}
	}
	return nil
}

// Origin implements resource.Resource.
func (r Rule) Origin() string { return r.From }

// Ops implements reconciler.Ops for rules.
type Ops struct{}

// Diff lists what differs between an observed and a desired rule of one ID.
func (Ops) Diff(observed, desired Rule) (fields []resource.Field, inPlace bool) {
	if observed.Rest != desired.Rest {
		fields = append(fields, resource.Field{Name: "selectors", Before: observed.Rest, After: desired.Rest})
	}
	return fields, false
}
