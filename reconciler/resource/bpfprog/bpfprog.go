// Package bpfprog is the kind of loaded eBPF programs, pinned below the node's own folder of the BPF file system.
//
// A pin is all that marks a program as ours, and it is the last step of making one. Its name says what the program is made
// of, so another one never has to be told from it by its code.
package bpfprog

import (
	"slices"
	"strings"

	"plumb.internal/plumb/bpf"
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
	// Settings are the object's switches by name, 0 or 1, and what else it is told, such as an address; nil for a program that
	// takes none. Of an observed program they are the switches that are on.
	Settings map[string]uint32
	Maps     []resource.ID // that it uses
	Needs    []features.Feature
	From     string

	// Observed is the name of an observed program; "" in desired state, where it follows from the rest. A program of which
	// only the name is known can't be made: while an apply may be taken back, those that were there stay pinned.
	Observed string
	// Fault is how an observed program is not what its name says; "" otherwise.
	Fault string
}

// Of is a program of an object with those of the maps that it uses.
func Of(object, program string, settings map[string]uint32, maps []resource.ID, from string) Program {
	p := Program{Object: object, Base: program, Settings: settings, From: from}
	uses := bpf.Uses(object, program)
	for _, id := range maps {
		if base, _, _, ok := bpf.ParseMapName(id.Name); ok && slices.Contains(uses, base) {
			p.Maps = append(p.Maps, id)
		}
	}
	return p
}

// ID implements resource.Resource: "connect4.0123456789ab", "from_pod.redirect+source_check.0123456789ab".
func (p Program) ID() resource.ID {
	if p.Observed != "" {
		return resource.ID{Kind: Kind, Name: p.Observed}
	}
	name := p.Base
	if on := p.on(); len(on) > 0 {
		name += "." + strings.Join(on, "+")
	}
	return resource.ID{Kind: Kind, Name: name + "." + bpf.Hash(p.Object, p.Base, p.Settings, names(p.Maps))}
}

// on lists the settings that are on, in order.
func (p Program) on() (names []string) {
	for name, v := range p.Settings {
		if v == 1 {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// named is the program that a name of a pin tells of.
func named(pin string) Program {
	p := Program{Observed: pin}
	parts := strings.Split(pin, ".")
	p.Base = parts[0]
	if len(parts) == 3 {
		p.Settings = map[string]uint32{}
		for _, name := range strings.Split(parts[1], "+") {
			p.Settings[name] = 1
		}
	}
	return p
}

func names(ids []resource.ID) []string {
	list := make([]string, 0, len(ids))
	for _, id := range ids {
		list = append(list, id.Name)
	}
	return list
}

// After implements resource.Resource: its maps.
func (p Program) After() []resource.ID { return slices.Clone(p.Maps) }

// DiesWith implements resource.Resource.
func (p Program) DiesWith() []resource.ID { return nil }

// Means implements resource.Means.
func (p Program) Means() bool { return true }

// Requires implements resource.Resource.
func (p Program) Requires() []features.Feature { return p.Needs }

// Origin implements resource.Resource.
func (p Program) Origin() string { return p.From }

// Ops implements reconciler.Ops for programs.
type Ops struct{}

// Keeps implements reconciler.Keeper: no record holds a program's code.
func (Ops) Keeps() {}

// Diff lists what differs between an observed and a desired program of one ID: nothing, unless its maps are of an earlier
// life, whose pins are gone. Then it is loaded again under its name, and links are moved to it. In a recorded state such a
// one is left as it is.
func (Ops) Diff(observed, desired Program) (fields []resource.Field, inPlace bool) {
	if observed.Fault != "" && desired.Fault == "" {
		fields = append(fields, resource.Field{Name: "loaded", Before: observed.Fault, After: "as its name says"})
	}
	return fields, true
}
