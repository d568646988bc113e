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
