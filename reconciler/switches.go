package reconciler

import (
	"maps"
	"slices"

	"plumb.internal/plumb/reconciler/resource"
)

// switches puts what a switch puts to work before it, and after it where it goes.
func (g *graph) switches() {
	type sides struct{ off, on []int }
	byKind := map[resource.Kind]*sides{}
	for _, c := range g.changes {
		r := c.After
		if r == nil {
			r = c.Before
		}
		s, ok := r.(resource.Switch)
		if !ok {
			continue
		}
		off, goes := g.gone[c.ID]
		on, comes := g.built[c.ID]
		for _, kind := range s.Switches() {
			if byKind[kind] == nil {
				byKind[kind] = &sides{}
			}
			if goes {
				byKind[kind].off = append(byKind[kind].off, off)
			}
			if comes && c.Action != resource.Update {
				byKind[kind].on = append(byKind[kind].on, on)
			}
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(byKind)) {
		var built, all []int
		for _, c := range g.changes {
			if c.ID.Kind != kind {
				continue
			}
			if s, ok := g.built[c.ID]; ok {
				built, all = append(built, s), append(all, s)
			}
			if s, ok := g.gone[c.ID]; ok {
				all = append(all, s)
			}
		}
		g.between(resource.ID{Kind: kind, Name: "switched off"}, byKind[kind].off, all)
		g.between(resource.ID{Kind: kind, Name: "switched on"}, built, byKind[kind].on)
	}
}
