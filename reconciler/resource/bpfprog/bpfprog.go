// Package bpfprog is the kind of loaded eBPF programs, pinned below the node's own folder of the BPF file system.
package bpfprog

import (
	"slices"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "bpfprog"

// Program is one program with its settings and maps. Its name holds a hash of all that it is made of, so that another one
// is another object: links are moved to it, then the old one goes.
type Program struct {
	Object string // "socket", "packet": a file of package bpf
	Base   string // "from_pod", as in the object
	// Settings are the object's constants by name; nil for a program that takes none.
	Settings map[string]uint32
	Maps     []resource.ID // that it uses
	Needs    []features.Feature
	From     string

	// Observed is the name of an observed program; "" in desired state, where Name says it.
	Observed string
}

// After implements resource.Resource: its maps.
func (p Program) After() []resource.ID { return slices.Clone(p.Maps) }

// DiesWith implements resource.Resource.
func (p Program) DiesWith() []resource.ID { return nil }

// Requires implements resource.Resource.
func (p Program) Requires() []features.Feature { return p.Needs }

// Origin implements resource.Resource.
func (p Program) Origin() string { return p.From }
