// Package bpfmap is the kind of eBPF maps, pinned below the node's own folder of the BPF file system.
package bpfmap

import (
	"fmt"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "bpfmap"

// Map is one map. Its size and the version of its layout are in its name: a change makes a new map beside the old one,
// which takes over what must live, and the old one goes when no program uses it any more.
type Map struct {
	Base    string // "frontends", as in the object
	Version int    // of the layout
	Entries int    // most entries
	From    string
}

// For returns the ID of a map: "frontends.v1.65536".
func For(base string, version, entries int) resource.ID {
	return resource.ID{Kind: Kind, Name: fmt.Sprintf("%s.v%d.%d", base, version, entries)}
}

// ID implements resource.Resource.
func (m Map) ID() resource.ID { return For(m.Base, m.Version, m.Entries) }

// After implements resource.Resource.
func (m Map) After() []resource.ID { return nil }

// DiesWith implements resource.Resource.
func (m Map) DiesWith() []resource.ID { return nil }

// Requires implements resource.Resource.
func (m Map) Requires() []features.Feature { return nil }

// Origin implements resource.Resource.
func (m Map) Origin() string { return m.From }
