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
	if err := t.check(desired); err != nil {
		return nil, err
	}
	desired, warnings := present(desired, o.Waiting)
	order, err := parentsFirst(desired)
	if err != nil {
		return nil, err
	}
	if err := claimedOnce(desired, order); err != nil {
		return nil, err
	}
	d := &differ{kinds: t, desired: desired, owned: o.Owned, order: order, along: map[resource.ID]bool{}}
	for {
		d.run()
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
	return &resource.Plan{Changes: d.changes, Conflicts: t.meet(desired, o), Warnings: warnings}, nil
}

// present leaves out the pods that wait for their adopted namespace, and what belongs to them on the node.
func present(desired resource.State, waiting map[string]string) (resource.State, []string) {
	if len(waiting) == 0 {
		return desired, nil
	}
	rest := resource.State{}
	absent := map[string]bool{}
	for id, r := range desired {
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
	return rest, warnings
}

// parentsFirst orders a state so that everything stands behind what it needs.
func parentsFirst(s resource.State) ([]resource.ID, error) {
	var (
		order, path []resource.ID
		visit       func(id resource.ID) error
	)
	done := map[resource.ID]bool{}
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
func claimedOnce(s resource.State, order []resource.ID) error {
	type claimed struct {
		value string
		by    resource.ID
	}
	held := map[string]claimed{}
	for _, id := range order {
		for _, c := range exclusive(s[id]) {
			if h, ok := held[c.Key]; ok && h.value != c.Value {
				return fmt.Errorf("%s wants %s as %s, %s wants it as %s", h.by, c.Key, h.value, id, c.Value)
			}
			held[c.Key] = claimed{c.Value, id}
		}
	}
	return nil
}

// differ compares object by object.
type differ struct {
	kinds          table
	desired, owned resource.State
	order          []resource.ID        // of desired, parents first
	along          map[resource.ID]bool // objects that can't be moved away from a parent in time, and go along with it

	changes []resource.Change
	byID    map[resource.ID]int // index in changes
}

// run works out all changes.
func (d *differ) run() {
	d.changes, d.byID = nil, map[resource.ID]int{}
	// Deletes come first, for what goes along with them; parents of what is observed are looked up as needed.
	for _, id := range d.owned.IDs() {
		if _, ok := d.desired[id]; !ok {
			d.add(resource.Change{ID: id, Action: resource.Delete, Before: d.owned[id],
				Reason: "no longer in the configuration"})
		}
	}
	for _, id := range d.order {
		if c, ok := d.compare(d.owned[id], d.desired[id]); ok {
			d.add(c)
		}
	}
	for i := range d.changes {
		if c := &d.changes[i]; c.Action == resource.Delete {
			d.imply(c)
		}
	}
	for i := range d.changes {
		c := &d.changes[i]
		c.Dropped = c.Action == resource.Delete && d.replacedWith(c) == nil
		d.disrupt(c)
	}
}

// add appends c.
func (d *differ) add(c resource.Change) {
	d.byID[c.ID] = len(d.changes)
	d.changes = append(d.changes, c)
}

// compare brings one object from observed (nil for none) to desired. Its parents were compared before it.
func (d *differ) compare(observed, desired resource.Resource) (resource.Change, bool) {
	c := resource.Change{ID: desired.ID(), Before: observed, After: desired}
	if observed == nil {
		c.Action, c.Reason = resource.Create, "wanted by "+cmp.Or(desired.Origin(), "the configuration")
		return c, true
	}
	fields, inPlace := d.kinds[c.ID.Kind].diff(observed, desired)
	c.Fields = fields
	if p, dies, ok := d.replacedParent(observed, desired); ok {
		c.Action, c.Reason = resource.Replace, "re-created with "+p.String()
		if dies {
			c.With = &p
		}
		return c, true
	}
	if len(fields) == 0 {
		// The same device by name, but made by another link: what is on the old one goes with it.
		for _, p := range observed.DiesWith() {
			if d.action(p) == resource.Delete && !borrowed(d.owned[p]) {
				c.Action, c.Reason, c.With = resource.Replace, "re-created with "+p.String(), &p
				return c, true
			}
		}
		return c, false
	}
	switch {
	case inPlace && slices.Equal(claimsOf(observed), claimsOf(desired)):
		c.Action, c.Reason = resource.Update, resource.ReasonUpdate(fields)
	default:
		c.Action, c.Reason = resource.Replace, resource.ReasonReplace(fields)
	}
	return c, true
}

// replacedParent finds what takes a desired object down before it can be created again, and whether the kernel removes
// the object along with it. What the desired object lives and dies with counts, unless the observed one is known to sit
// elsewhere.
func (d *differ) replacedParent(observed, desired resource.Resource) (p resource.ID, dies, ok bool) {
	for _, p := range desired.DiesWith() {
		if d.action(p) != resource.Replace || elsewhere(observed, p) {
			continue
		}
		return p, !borrowed(d.owned[p]), true
	}
	if d.along[desired.ID()] {
		for _, p := range observed.DiesWith() {
			if a := d.action(p); (a == resource.Replace || a == resource.Delete) && !borrowed(d.owned[p]) {
				return p, true, true
			}
		}
		for _, p := range observed.After() {
			if a := d.action(p); a == resource.Replace || a == resource.Delete {
				return p, false, true
			}
		}
	}
	// What merely needs a replaced object (a port its bridge) would stay, but cut off from it.
	for _, p := range desired.After() {
		if d.action(p) == resource.Replace && slices.Contains(observed.After(), p) {
			return p, false, true
		}
	}
	return resource.ID{}, false, false
}

// elsewhere reports whether an observed object is known to live and die with another object of p's kind.
func elsewhere(observed resource.Resource, p resource.ID) bool {
	ids := observed.DiesWith()
	return !slices.Contains(ids, p) && slices.ContainsFunc(ids, func(id resource.ID) bool { return id.Kind == p.Kind })
}

// imply finds what takes an object along that nobody wants any more.
func (d *differ) imply(c *resource.Change) {
	for _, p := range c.Before.DiesWith() {
		a := d.action(p)
		if (a != resource.Replace && a != resource.Delete) || borrowed(d.owned[p]) {
			continue
		}
		c.Reason = "goes with " + p.String()
		if rec, ok := c.Before.(resource.Recorder); !ok || !rec.Recorded() {
			c.With = &p
		}
		return
	}
}

// action is what happens to an object; "" for nothing.
func (d *differ) action(id resource.ID) resource.Action {
	if i, ok := d.byID[id]; ok {
		return d.changes[i].Action
	}
	return ""
}

// borrowed reports whether letting go of r leaves what is in it.
func borrowed(r resource.Resource) bool {
	b, ok := r.(resource.Borrower)
	return ok && b.Borrowed()
}

// disrupt says whom c hurts. What goes or comes along with a replaced object hurts as much as that one; a pod that the
// files no longer name isn't disrupted by its removal.
func (d *differ) disrupt(c *resource.Change) {
	c.Disruption = resource.DisruptsNothing
	r, from := c.After, c.Before
	if r == nil {
		r = c.Before
	}
	if dis, ok := r.(resource.Disrupter); ok {
		c.Disruption = dis.Disruption(c.Action, from)
	}
	if c.Action == resource.Delete && c.Dropped && !d.podStays(r) && c.Disruption != resource.DisruptsSession {
		c.Disruption = resource.DisruptsNothing
	}
	if p := d.replacedWith(c); p != nil {
		if dis, ok := p.After.(resource.Disrupter); ok {
			if class := dis.Disruption(p.Action, p.Before); class.Level() > c.Disruption.Level() {
				c.Disruption = class
			}
		}
	}
}

// replacedWith follows what c goes along with, up to the replaced object that it all comes from; nil if there is none.
func (d *differ) replacedWith(c *resource.Change) *resource.Change {
	for range len(d.changes) {
		if c.With == nil {
			return nil
		}
		if c = &d.changes[d.byID[*c.With]]; c.Action == resource.Replace && c.With == nil {
			return c
		}
	}
	return nil
}

// podStays reports whether r is part of a pod that the files still name.
func (d *differ) podStays(r resource.Resource) bool {
	pod := resource.Pod(r)
	_, ok := d.desired[resource.ID{Kind: "netns", Name: pod}]
	return pod != "" && ok
}

// letGo breaks a circle: objects that can't be moved away before their old place goes, go along with it and are created
// again, all that are on it: it can't wait. It reports whether there were any.
func (d *differ) letGo(g *graph, circle []int) bool {
	found := false
	for i, s := range circle {
		next := circle[(i+1)%len(circle)]
		if !slices.Contains(g.steps[next].moves, s) {
			continue
		}
		for _, m := range g.steps[next].moves {
			if id := g.steps[m].id; !d.along[id] {
				d.along[id] = true
				found = true
			}
		}
	}
	return found
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
func (t table) meet(desired resource.State, o *Observed) []resource.Conflict {
	var conflicts []resource.Conflict
	byKind := map[resource.Kind][]resource.Resource{}
	for _, f := range o.Foreign {
		byKind[f.ID().Kind] = append(byKind[f.ID().Kind], f)
	}
	named := map[resource.ID]bool{}
	for name, k := range t {
		for _, c := range k.conflicts(desired, byKind[name]) {
			named[c.ID] = true
			conflicts = append(conflicts, c)
		}
	}
	for _, f := range o.Foreign {
		id := f.ID()
		_, wanted := desired[id]
		_, ours := o.Owned[id]
		if wanted && !ours && !named[id] {
			named[id] = true
			conflicts = append(conflicts, resource.Conflict{ID: id, Foreign: resource.Describe(f), Owner: "not marked as plumb's",
				Fix: "remove it, or change " + cmp.Or(desired[id].Origin(), "the configuration")})
		}
	}
	slices.SortFunc(conflicts, func(a, b resource.Conflict) int {
		return cmp.Or(a.ID.Compare(b.ID), cmp.Compare(a.Foreign, b.Foreign))
	})
	return conflicts
}
