// Package bpfmap is the kind of eBPF maps, pinned below the node's own folder of the BPF file system.
//
// A pin is all that marks a map as ours: it is the last step of making one, so what a kill leaves half made goes with the
// process. A map that isn't what its name promises is replaced without a look at its entries. Of one of another version, by
// an older or a newer plumb, only what the programs have learnt is taken over, by the types that the kernel keeps of it; what
// plumb itself has written there is written anew.
package bpfmap

import (
	"github.com/cilium/ebpf"

	"plumb.internal/plumb/bpf"
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

	// Pin is the name of an observed pin that isn't the name of a map; "" otherwise.
	Pin string
	// Fault is how an observed map is not what its name says; "" otherwise.
	Fault string
}

// Of is a map of the present layout.
func Of(base string, entries int, from string) Map {
	return Map{Base: base, Version: Version(base), Entries: entries, From: from}
}

// For returns the ID of a map: "frontends.v1.65536".
func For(base string, version, entries int) resource.ID {
	return resource.ID{Kind: Kind, Name: bpf.MapName(base, version, entries)}
}

// Version is the present version of a map's layout; 0 where there is no such map.
func Version(base string) int { return bpf.Layouts[base].Version }

// Bytes estimates the kernel memory of a map that is full: for hash tables 16 bytes for each bucket (the next power of two
// of the entries) and 48 beside each key and value. An LRU map takes all of it at once, the others as they fill up. Of a map
// that counts by CPU it is one CPU's part.
func Bytes(base string, entries int) int64 {
	l, ok := bpf.Layouts[base]
	if !ok || entries <= 0 {
		return 0
	}
	n, value := int64(entries), round8(l.Value)
	if l.Type == ebpf.Array || l.Type == ebpf.PerCPUArray {
		return n * value
	}
	buckets := int64(1)
	for buckets < n {
		buckets *= 2
	}
	return buckets*16 + n*(48+round8(l.Key)+value)
}

func round8(n uint32) int64 { return (int64(n) + 7) &^ 7 }

// ID implements resource.Resource.
func (m Map) ID() resource.ID {
	if m.Pin != "" {
		return resource.ID{Kind: Kind, Name: m.Pin}
	}
	return For(m.Base, m.Version, m.Entries)
}

// After implements resource.Resource.
func (m Map) After() []resource.ID { return nil }

// DiesWith implements resource.Resource.
func (m Map) DiesWith() []resource.ID { return nil }

// Means implements resource.Means.
func (m Map) Means() bool { return true }

// Inherits implements resource.Heir.
func (m Map) Inherits() string { return m.Base }

// Requires implements resource.Resource.
func (m Map) Requires() []features.Feature { return nil }

// Origin implements resource.Resource.
func (m Map) Origin() string { return m.From }

// Ops implements reconciler.Ops for maps.
type Ops struct{}

// Keeps implements reconciler.Keeper: no record holds what is in a map.
func (Ops) Keeps() {}

// Diff lists what differs between an observed and a desired map of one ID: nothing, but for a map that isn't what its
// name says. Such a one can't be mended; in a recorded state it is left as it is.
func (Ops) Diff(observed, desired Map) (fields []resource.Field, inPlace bool) {
	if observed.Fault != "" && desired.Fault == "" {
		fields = append(fields, resource.Field{Name: "layout", Before: observed.Fault, After: "as its name says"})
	}
	return fields, false
}
