// Package exclusion is the kind of the destinations that pods reach by their own addresses where the eBPF programs of
// uplinks masquerade the others: the ranges in map "excluded".
package exclusion

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "exclusion"

// Exclusions are all ranges of the node.
type Exclusions struct {
	Prefixes []netip.Prefix // ordered, each of them once
	Maps     []resource.ID  // that hold them
	From     string
}

// ID implements resource.Resource.
func (Exclusions) ID() resource.ID { return resource.ID{Kind: Kind, Name: "masquerade"} }

// After implements resource.Resource: its map.
func (e Exclusions) After() []resource.ID { return e.Maps }

// DiesWith implements resource.Resource.
func (Exclusions) DiesWith() []resource.ID { return nil }

// Means implements resource.Means.
func (Exclusions) Means() bool { return true }

// Requires implements resource.Resource.
func (Exclusions) Requires() []features.Feature { return []features.Feature{features.MapLPMTrie} }

// Origin implements resource.Resource.
func (e Exclusions) Origin() string { return e.From }

// Describe implements resource.Describer: "not masqueraded: 10.0.0.0/8, fd00::/8", or how many they are.
func (e Exclusions) Describe() string {
	const most = 8
	if len(e.Prefixes) > most {
		return "not masqueraded: " + strconv.Itoa(len(e.Prefixes)) + " ranges"
	}
	var all []string
	for _, p := range e.Prefixes {
		all = append(all, p.String())
	}
	return "not masqueraded: " + strings.Join(all, ", ")
}

// Restored implements resource.Restorer.
func (e Exclusions) Restored(*resource.Found) resource.Resource { return e }

// Ops implements reconciler.Ops for exclusions.
type Ops struct{}

// Diff lists the ranges that are too many or too few.
func (Ops) Diff(observed, desired Exclusions) (fields []resource.Field, inPlace bool) {
	for _, p := range without(observed.Prefixes, desired.Prefixes) {
		fields = append(fields, resource.Field{Name: p.String(), Before: excluded})
	}
	for _, p := range without(desired.Prefixes, observed.Prefixes) {
		fields = append(fields, resource.Field{Name: p.String(), After: excluded})
	}
	return fields, true
}

const excluded = "not masqueraded"

// without are the ranges that others hasn't got.
func without(prefixes, others []netip.Prefix) (rest []netip.Prefix) {
	there := make(map[netip.Prefix]bool, len(others))
	for _, p := range others {
		there[p] = true
	}
	for _, p := range prefixes {
		if !there[p] {
			rest = append(rest, p)
		}
	}
	return rest
}

// Sorted are ranges in their order, each of them once.
func Sorted(prefixes []netip.Prefix) []netip.Prefix {
	all := slices.Clone(prefixes)
	slices.SortFunc(all, netip.Prefix.Compare)
	return slices.Compact(all)
}
