package reconciler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"plumb.internal/plumb/reconciler/resource"
)

// diff says what must change so that the observed state becomes the desired one. It is pure: the same two states give the
// same plan.
func (t table) diff(desired resource.State, o *Observed) (*resource.Plan, error) {
	w, matched := o.wanted, o.matched
	if !w.is(desired) { // nobody has compared it
		o, w, matched = &Observed{Owned: o.All(), Foreign: o.Foreign, Waiting: o.Waiting}, sorted(desired), nil
	}
	if err := t.check(w); err != nil {
		return nil, err
	}
	w, warnings := present(w, o.Waiting)
	if err := claimedOnce(w); err != nil {
		return nil, err
	}
	d := &differ{kinds: t, desired: w.state, owned: o.Owned, matched: matched, differing: t.differences(w, o), along: map[resource.ID]bool{}}
	for id := range o.Owned {
		if _, ok := d.desired[id]; !ok {
			d.gone = append(d.gone, id)
		}
	}
	slices.SortFunc(d.gone, resource.ID.Compare)
	for {
		if err := d.run(); err != nil {
			return nil, err
		}
		g := newGraph(d.changes)
		steps, circle := g.sorted()
		if circle == nil {
			arrange(d.changes, g, steps)
			break
		}
		if !d.letGo(g, circle) {
			return nil, g.circleError(circle)
		}
	}
	return &resource.Plan{Changes: d.changes, Conflicts: t.meet(w, o), Warnings: warnings}, nil
}

// present leaves out the pods that wait for their adopted namespace, and what belongs to them on the node.
func present(w *wanted, waiting map[string]string) (*wanted, []string) {
	if len(waiting) == 0 {
		return w, nil
	}
	rest := resource.State{}
	absent := map[string]bool{}
	for id, r := range w.state {
		pod := resource.Pod(r)
		if _, ok := waiting[pod]; ok && pod != "" {
			absent[pod] = true
			continue
		}
		rest[id] = r
	}
	var warnings []string
	for pod := range absent {
		warnings = append(warnings, fmt.Sprintf("pod %s waits for %s", pod, waiting[pod]))
	}
	slices.Sort(warnings)
	return sorted(rest), warnings
}

// parentsFirst orders a state so that everything stands behind what it needs.
func parentsFirst(s resource.State) ([]resource.ID, error) {
	var (
		order, path []resource.ID
		visit       func(id resource.ID) error
	)
	done := make(map[resource.ID]bool, len(s))
	order = make([]resource.ID, 0, len(s))
	visit = func(id resource.ID) error {
		r, ok := s[id]
		if !ok || done[id] {
			return nil
		}
		if i := slices.Index(path, id); i >= 0 {
			var names []string
			for _, p := range append(path[i:], id) {
				names = append(names, p.String())
			}
			return fmt.Errorf("order the objects: each of these needs the next: %s", strings.Join(names, " -> "))
		}
		path = append(path, id)
		for _, p := range needs(r) {
			if err := visit(p); err != nil {
				return err
			}
		}
		path = path[:len(path)-1]
		done[id] = true
		order = append(order, id)
		return nil
	}
	for _, id := range s.IDs() {
		if err := visit(id); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// claimedOnce refuses a state whose own objects exclude each other.
func claimedOnce(w *wanted) error {
	type claimed struct {
		value string
		by    resource.ID
	}
	held := map[string]claimed{}
	var errs []error
	for _, rs := range w.of {
		if !claims(rs[0]) {
			continue // nor do the others of its kind
		}
		for _, r := range rs {
			id := r.ID()
			for _, c := range exclusive(r) {
				h, ok := held[c.Key]
				if !ok {
					held[c.Key] = claimed{c.Value, id}
					continue
				}
				if h.value == c.Value {
					continue
				}
				if id.Compare(h.by) < 0 {
					h, id, c.Value = claimed{c.Value, id}, h.by, h.value
				}
				errs = append(errs, fmt.Errorf("%s wants %s as %s, %s wants it as %s", h.by, c.Key, h.value, id, c.Value))
			}
		}
	}
	if errs == nil {
		return nil
	}
	return slices.MinFunc(errs, byText)
}

// arrange puts the changes into the order of their steps: a replace where it creates, what goes along right behind.
func arrange(changes []resource.Change, g *graph, steps []int) {
	at := make([]int, len(g.steps))
	for i, s := range steps {
		at[s] = i
	}
	position := func(c resource.Change) int {
		if s, ok := g.built[c.ID]; ok {
			return at[s]
		}
		s := g.gone[c.ID]
		if c.With != nil {
			if b, ok := g.built[*c.With]; ok {
				return at[b]
			}
		}
		return at[s]
	}
	slices.SortStableFunc(changes, func(a, b resource.Change) int {
		along := func(c resource.Change) int {
			if c.Action == resource.Delete && c.With != nil {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(position(a), position(b)), cmp.Compare(along(a), along(b)), a.ID.Compare(b.ID))
	})
}

// meet lists whose objects are in the way of desired ones.
func (t table) meet(w *wanted, o *Observed) []resource.Conflict {
	var conflicts []resource.Conflict
	byKind := map[resource.Kind][]resource.Resource{}
	for _, f := range o.Foreign {
		byKind[f.ID().Kind] = append(byKind[f.ID().Kind], f)
	}
	named := map[resource.ID]bool{}
	rest := w.without(o.matched) // nobody's addresses or routes are among those
	for name, k := range t {
		for _, c := range k.conflicts(rest, byKind[name]) {
			named[c.ID] = true
			conflicts = append(conflicts, c)
		}
	}
	for _, f := range o.Foreign {
		id := f.ID()
		_, wanted := w.state[id]
		_, ours := o.Owned[id]
		if wanted && !ours && !named[id] {
			named[id] = true
			conflicts = append(conflicts, resource.Conflict{ID: id, Foreign: resource.Describe(f), Owner: "not marked as plumb's",
				Fix: "remove it, or change " + cmp.Or(w.state[id].Origin(), "the configuration")})
		}
	}
	slices.SortFunc(conflicts, func(a, b resource.Conflict) int {
		return cmp.Or(a.ID.Compare(b.ID), cmp.Compare(a.Foreign, b.Foreign))
	})
	return conflicts
}
