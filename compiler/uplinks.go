package compiler

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpflink"
	"plumb.internal/plumb/reconciler/resource/endpoint"
	"plumb.internal/plumb/reconciler/resource/uplink"
)

// uplinkPrograms are the programs that the node's uplinks need, whatever pods sit on them.
func (d *datapath) uplinkPrograms() (programs []string) {
	if d.pace || d.onUplinks() {
		programs = append(programs, "uplink_egress")
	}
	if len(d.uplinks) > 0 || d.onUplinks() {
		programs = append(programs, "uplink_ingress")
	}
	return programs
}

// attachUplinks puts programs on the uplinks: where macvlan and ipvlan pods sit, for the check of their sources, and
// everywhere for what uplinkPrograms says. Each uplink has a program once, whoever it is for.
func (b *builder) attachUplinks(settings map[string]uint32, used usedMaps, needs []features.Feature) {
	children, from := map[string][]resource.ID{}, map[string]string{}
	for _, w := range b.wirings {
		if w.child() {
			if from[w.Uplink] == "" {
				from[w.Uplink] = w.path
			}
			children[w.Uplink] = append(children[w.Uplink], endpoint.For(w.name))
		}
	}
	settings = maps.Clone(settings)
	if len(children) == 0 {
		settings["source_check"] = 0 // pods of pairs are checked there
	}
	b.masqueradeSettings(settings)
	known := b.known(used)
	if b.datapath.onUplinks() {
		needs = append(slices.Clone(needs), features.MapLRUHash, features.MapLPMTrie)
	}
	uplinks := b.node.Uplinks
	if !b.datapath.onUplinks() {
		uplinks, _ = b.situation().uplinks()
	}
	uplinks = slices.Concat(uplinks, slices.Collect(maps.Keys(children)))
	slices.Sort(uplinks)
	for _, dev := range slices.Compact(uplinks) {
		programs := b.datapath.uplinkPrograms()
		if len(children[dev]) > 0 {
			programs = append(programs, "uplink_egress", "uplink_ingress")
			slices.Sort(programs)
		}
		for _, program := range slices.Compact(programs) {
			if program == "uplink_ingress" && len(children[dev]) == 0 && !slices.Contains(b.datapath.uplinks, dev) && !b.datapath.onUplinks() {
				continue
			}
			settings := maps.Clone(settings)
			a := bpflink.Attachment{Dev: dev, Hook: bpflink.Ingress, From: from[dev], Knows: union(children[dev], known), Way: b.deviceHook(false)}
			if program == "uplink_egress" {
				a.Hook, a.Knows = bpflink.Egress, union(a.Knows, b.pacedPods())
				if b.datapath.pace {
					settings["pace"] = 1
				}
				if b.datapath.onUplinks() { // answers first
					a.Knows = append(slices.Clone(a.Knows), bpflink.For("", dev, bpflink.Ingress))
				}
			}
			if a.From == "" {
				a.From = element(b.node.path+".uplinks", slices.Index(b.node.Uplinks, dev))
			}
			a.Program = b.program(b.datapath.uplinkObject(), program, settings, used, needs)
			b.put(a)
		}
	}
}

// leadOut switches on the way past the stack, to and from each uplink.
func (b *builder) leadOut(used usedMaps) {
	for _, dev := range b.datapath.uplinks {
		b.put(uplink.Uplink{
			// What is larger than all devices carry is the stack's to judge where the MTU isn't known.
			Dev: dev, MTU: cmp.Or(b.uplinkMTU(dev), defaultMTU), Maps: only(used, "uplinks"),
			From: element(b.node.path+".uplinks", slices.Index(b.node.Uplinks, dev)),
		})
	}
}

// warnGone names the uplinks that the machine hasn't got: what is on the others works without them.
func (b *builder) warnGone() {
	if _, gone := b.situation().uplinks(); len(gone) > 0 {
		b.warn("this machine has no device %s, which %s.uplinks names: the other uplinks are set up without it; apply again once it is there",
			strings.Join(gone, ", "), b.node.path)
	}
}
