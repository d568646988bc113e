// Package nft is the kind of plumb's own nftables table: services on kernels, or nodes, without those in eBPF.
//
// The table has one verdict map of frontends and one map of slots a family, and few chains:
//
//	services4 { address . protocol . port : goto ip_random_3 }          comment "random"
//	slots4    { address . protocol . port . slot : backend . port }     comment "weight 2"
//	chain ip_random_3: dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 3 map @slots4
//
// There is a chain for each way of picking and each number of slots in use, none for a service, so that a changed service
// is changed elements, in one transaction. Slots beyond those that are picked from hold the backends that get nothing
// new. What a packet doesn't need is in comments of elements: nothing that should be is kept anywhere but in the kernel.
//
// Where others carry the services, the table can keep what pods send each other out of the kernel's connection table:
//
//	chain bypass: ip saddr @pods4 ip daddr @ends4 notrack
//
// And whoever carries them, it can give what leaves the address of the node:
//
//	chain masquerade: oifname @uplinks ip saddr @masqueraded4 ip daddr != @excluded4 masquerade fully-random
//
//	nft.go         Table: what should be; how it differs, in words
//	elements.go    frontends as elements of sets, and back
//	delta.go       which of them an update writes
//	rules_linux.go sets, chains and rules, as the kernel returns them
//	dump_linux.go  elements read fast
//	nft_linux.go   Ops; each write is one transaction
//	bypass.go      what isn't tracked
//	masquerade.go  who leaves by the node's address
//	flows_linux.go UDP flows that must not outlive their backend
//	connections_linux.go what is under way to backends
//
// What it can't: Maglev; a round-robin of its own for each service (those with as many slots share a counter); an end to
// affinity after a time (the client's address decides, and moves only when the slots change).
//
// To inspect: nft list table inet plumb. Tests make network namespaces of their own: go test ./reconciler/resource/nft
package nft

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "nft"

// Table is table `inet plumb` of the root namespace as a whole: its elements change in one transaction.
type Table struct {
	Frontends []resource.Frontend // ordered by name
	// Segments are devices behind which pods reach each other past the host's stack (a bridge, the host's child of a
	// macvlan or ipvlan parent), ordered. What a service sends out where it came in is masqueraded there, or the answer
	// wouldn't come back through the host. A pod that reaches itself is masqueraded everywhere.
	Segments []string
	// Pods are addresses of pods. What they exchange with Ends, which hold them too, isn't tracked by the kernel. A table with
	// these carries no services.
	Pods, Ends []Range
	// Masquerade is who leaves by the node's address.
	Masquerade Masquerade
	From       string

	// Damage says what in the observed table isn't as plumb makes it; then it is made anew as a whole.
	Damage string
	// Owner says whose a foreign table is; observed only.
	Owner string

	// busy is set of an observed table with connections under way that is no longer wanted.
	busy bool
}

// ID implements resource.Resource.
func (t Table) ID() resource.ID { return resource.ID{Kind: Kind, Name: "inet " + resource.NftTable} }

// After implements resource.Resource.
func (t Table) After() []resource.ID { return nil }

// DiesWith implements resource.Resource.
func (t Table) DiesWith() []resource.ID { return nil }

// Requires implements resource.Resource.
func (t Table) Requires() []features.Feature {
	var needs []features.Feature
	p := t.parts()
	if p.bypass {
		needs = append(needs, features.NFTNotrack)
	}
	if p.masquerade || p.services {
		needs = append(needs, features.NFTNat)
	}
	if p.services {
		needs = append(needs, features.NFTServices)
	}
	return needs
}

// Origin implements resource.Resource.
func (t Table) Origin() string { return t.From }

// Carries implements resource.Carrier.
func (t Table) Carries() iter.Seq[resource.FrontendKey] {
	return func(yield func(resource.FrontendKey) bool) {
		for _, f := range t.Frontends {
			if !yield(f.Key()) {
				return
			}
		}
	}
}

// Disruption implements resource.Disrupter: without the table nobody translates the connections that it led to backends.
func (t Table) Disruption(action resource.Action, from resource.Resource) resource.Disruption {
	if before, ok := from.(Table); ok && action == resource.Update &&
		(before.parts().services && !t.parts().services || before.Masquerades() && !t.Masquerades()) {
		return before.Disruption(resource.Delete, before) // what it led is led no more
	}
	switch {
	case action != resource.Delete || len(t.Frontends) == 0 && !t.Masquerades():
		return resource.DisruptsNothing
	case t.busy:
		return resource.DisruptsPod
	}
	return resource.DisruptsNewFlows
}

// Describe implements resource.Describer: "table inet plumb, 2 frontends, 5 backends".
func (t Table) Describe() string {
	text, p := "table inet "+resource.NftTable, t.parts()
	if p.bypass {
		text += ", not tracked: " + t.Between()
	}
	if p.services {
		backends := 0
		for _, f := range t.Frontends {
			backends += len(f.Backends)
		}
		text += fmt.Sprintf(", %d frontends, %d backends", len(t.Frontends), backends)
	}
	if p.masquerade {
		text += ", masqueraded: " + t.Masquerade.String()
	}
	return text
}

// Serves reports whether the table leads connections to backends.
func (t Table) Serves() bool { return t.parts().services }

// parts are what a table is for. It has the sets and chains of these, and no others.
type parts struct{ services, bypass, masquerade bool }

func (t Table) parts() parts {
	p := parts{bypass: t.Bypasses(), masquerade: t.Masquerades()}
	p.services = !p.bypass && !p.masquerade || len(t.Frontends)+len(t.Segments) > 0
	return p
}

// Ops implements reconciler.Ops for the table.
type Ops struct{}

// Diff lists the frontends that differ. All is done in place; a damaged table is made anew in one transaction.
func (Ops) Diff(observed, desired Table) (fields []resource.Field, inPlace bool) {
	if observed.Damage != "" {
		fields = append(fields, resource.Field{Name: "ruleset", Before: observed.Damage, After: "as plumb makes it"})
	}
	if !slices.Equal(observed.Segments, desired.Segments) {
		fields = append(fields, resource.Field{Name: "segments",
			Before: strings.Join(observed.Segments, " "), After: strings.Join(desired.Segments, " ")})
	}
	if !sameBypass(observed, desired) {
		fields = append(fields, resource.Field{Name: "not tracked", Before: observed.Between(), After: desired.Between()})
	}
	if !observed.Masquerade.equal(desired.Masquerade) {
		fields = append(fields, resource.Field{Name: "masqueraded", Before: observed.Masquerade.String(), After: desired.Masquerade.String()})
	}
	before := make(map[resource.FrontendKey]resource.Frontend, len(observed.Frontends))
	for _, f := range observed.Frontends {
		before[f.Key()] = f
	}
	differs := func(name, was, is string) {
		fields = append(fields, resource.Field{Name: name, Before: was, After: is})
	}
	for _, f := range desired.Frontends {
		was, ok := before[f.Key()]
		delete(before, f.Key())
		switch {
		case !ok:
			differs(f.Name(), "", text(f))
		case !same(was, f):
			differs(f.Name(), text(was), text(f))
		}
	}
	for _, f := range observed.Frontends {
		if _, ok := before[f.Key()]; ok {
			differs(f.Name(), text(f), "")
		}
	}
	return fields, true
}

// same reports whether two frontends of one name are the same.
func same(a, b resource.Frontend) bool {
	return a.Algorithm == b.Algorithm && a.Affinity == b.Affinity && slices.Equal(a.Backends, b.Backends)
}

// text is a frontend on one line: "random to 10.0.0.10:8080, 10.0.1.9:9090 weight 2".
func text(f resource.Frontend) string {
	s := frontendComment(f) + " to "
	if len(f.Backends) == 0 {
		return s + "nobody"
	}
	for i, b := range f.Backends {
		if i > 0 {
			s += ", "
		}
		s += b.At().String()
		if c := backendComment(b); c != "" {
			s += " " + c
		}
	}
	return s
}

// Conflicts implements reconciler.Conflicter: there is one table of a name.
func (Ops) Conflicts(desired resource.State, foreign []Table) []resource.Conflict {
	var conflicts []resource.Conflict
	for _, f := range foreign {
		if _, ok := desired[f.ID()]; ok {
			conflicts = append(conflicts, resource.Conflict{
				ID:      f.ID(),
				Foreign: "nftables table inet " + resource.NftTable,
				Owner:   f.Owner,
				Fix:     "take it away (nft delete table inet " + resource.NftTable + ")",
			})
		}
	}
	return conflicts
}

// unable is the error about a table that this kind can't make.
func (t Table) unable() error {
	if t.Bypasses() && len(t.Frontends)+len(t.Segments) > 0 {
		return errors.New("what isn't tracked can't be translated: the table carries services, or it bypasses connection tracking")
	}
	for _, f := range t.Frontends {
		if f.Algorithm == resource.Maglev {
			return fmt.Errorf("service %s: %w", f.Name(), errMaglev)
		}
	}
	return nil
}

var errMaglev = errors.New("nftables can't do maglev (choose random or round-robin)")
