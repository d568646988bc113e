package reconciler

import (
	"cmp"
	"slices"

	"plumb.internal/plumb/reconciler/resource"
)

// differ compares object by object.
type differ struct {
	kinds          table
	desired, owned resource.State
	matched        map[resource.Kind]matched
	differing      map[resource.ID]difference // desired objects that aren't as observed
	gone           []resource.ID              // what nobody wants any more, in order
	along          map[resource.ID]bool       // objects that can't be moved away from a parent in time, and go along with it

	frontends map[resource.FrontendKey]bool // desired ones, see carried
	leaving   map[resource.Device]bool      // of links that go, see takesOver

	changes []resource.Change
	byID    map[resource.ID]int // index in changes
}

// unnamed is why an object goes, unless there is a better reason.
const unnamed = "no longer in the configuration"

// run works out all changes.
func (d *differ) run() error {
	n := len(d.gone) + len(d.differing)
	d.changes, d.byID = make([]resource.Change, 0, n), make(map[resource.ID]int, n)
	// Deletes come first, for what goes along with them; parents of what is observed are looked up as needed.
	for _, id := range d.gone {
		d.add(resource.Change{ID: id, Action: resource.Delete, Before: d.owned[id], Reason: unnamed})
	}
	order, err := parentsFirst(d.suspects())
	if err != nil {
		return err
	}
	for _, id := range order {
		if c, ok := d.compare(d.observed(id), d.desired[id]); ok {
			d.add(c)
		}
	}
	for i := range d.changes {
		if c := &d.changes[i]; c.Action == resource.Delete {
			d.imply(c)
		}
	}
	for i := range d.changes {
		d.changes[i].Dropped = d.dropped(&d.changes[i])
	}
	for i := range d.changes {
		c := &d.changes[i]
		d.disrupt(c)
		explain(c)
	}
	return nil
}

// suspects are the desired objects that may have to change: those that differ, and those that need something that goes.
func (d *differ) suspects() resource.State {
	suspects := make(resource.State, len(d.differing))
	going := map[resource.ID]bool{}
	for _, id := range d.gone {
		going[id] = true
	}
	for id := range d.along {
		suspects[id], going[id] = d.desired[id], true
	}
	for id, diff := range d.differing {
		suspects[id] = d.desired[id]
		if observed, ok := d.owned[id]; ok && !d.mends(observed, d.desired[id], diff) || !ok && d.takesOver(id) {
			going[id] = true
		}
	}
	for found := len(going) > 0; found; {
		found = false
		for id, r := range d.desired {
			if !going[id] && (needsAny(r, going) || needsAny(d.owned[id], going)) {
				suspects[id], going[id], found = r, true, true
			}
		}
	}
	return suspects
}

// observed is what is there of a desired object; nil for nothing.
func (d *differ) observed(id resource.ID) resource.Resource {
	if r, ok := d.owned[id]; ok {
		return r
	}
	m, ok := d.matched[id.Kind]
	if _, differs := d.differing[id]; differs || !ok {
		return nil
	}
	return m.as(d.desired[id])
}

// needsAny reports whether r needs one of ids.
func needsAny(r resource.Resource, ids map[resource.ID]bool) bool {
	in := func(id resource.ID) bool { return ids[id] }
	return r != nil && (slices.ContainsFunc(r.After(), in) || slices.ContainsFunc(r.DiesWith(), in))
}

// mends reports whether an update brings an object from observed to desired.
func (d *differ) mends(observed, desired resource.Resource, diff difference) bool {
	return diff.inPlace && slices.Equal(claimsOf(observed), claimsOf(desired))
}

// takesOver reports whether a desired object makes a device that another one made, which goes: somebody gave the other end
// of a pair another name. What was told of the device has to be told anew.
func (d *differ) takesOver(id resource.ID) bool {
	if d.leaving == nil {
		d.leaving = map[resource.Device]bool{}
		for _, id := range d.gone {
			if m, ok := d.owned[id].(resource.Maker); ok {
				for _, dev := range m.Devices() {
					d.leaving[dev] = true
				}
			}
		}
	}
	m, ok := d.desired[id].(resource.Maker)
	return ok && slices.ContainsFunc(m.Devices(), func(dev resource.Device) bool { return d.leaving[dev] })
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
	diff := d.differing[c.ID]
	c.Fields = diff.fields
	if p, dies, ok := d.replacedParent(observed, desired); ok {
		c.Action, c.Reason = resource.Replace, "re-created with "+p.String()
		if dies {
			c.With = &p
		}
		return c, true
	}
	if len(diff.fields) == 0 {
		// The same device by name, but made by another link: what is on the old one goes with it.
		for _, p := range observed.DiesWith() {
			if d.action(p) == resource.Delete && !borrowed(d.owned[p]) {
				c.Action, c.Reason, c.With = resource.Replace, "re-created with "+p.String(), &p
				return c, true
			}
		}
		for _, p := range desired.After() {
			if d.action(p) == resource.Create && d.takesOver(p) {
				c.Action, c.Reason = resource.Replace, "re-created with "+p.String()
				return c, true
			}
		}
		return c, false
	}
	switch {
	case d.mends(observed, desired, diff):
		c.Action, c.Reason = resource.Update, resource.ReasonUpdate(diff.fields)
	default:
		c.Action, c.Reason = resource.Replace, resource.ReasonReplace(diff.fields)
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

// disrupt says whom c hurts. What goes or comes along with a replaced object hurts at least as much as that one, and what
// goes with a deleted one just as much; a pod that the files no longer name isn't disrupted by its removal.
func (d *differ) disrupt(c *resource.Change) {
	c.Disruption = resource.DisruptsNothing
	r, from := c.After, c.Before
	if r == nil {
		r = c.Before
	}
	if dis, ok := r.(resource.Disrupter); ok {
		c.Disruption = dis.Disruption(c.Action, from)
	}
	if c.Action == resource.Delete && gone(c) && !d.podStays(r) && c.Disruption != resource.DisruptsSession {
		c.Disruption = resource.DisruptsNothing
	}
	root := d.root(c)
	switch {
	case root == c:
	case root.Action == resource.Delete && c.Action == resource.Delete:
		d.disrupt(root)
		c.Disruption = root.Disruption
	case root.Action == resource.Replace:
		if dis, ok := root.After.(resource.Disrupter); ok {
			if class := dis.Disruption(root.Action, root.Before); class.Level() > c.Disruption.Level() {
				c.Disruption = class
			}
		}
	}
}

// root follows what c goes along with, up to what it all comes from; c itself where it goes with nothing.
func (d *differ) root(c *resource.Change) *resource.Change {
	for range len(d.changes) {
		if c.With == nil {
			break
		}
		c = &d.changes[d.byID[*c.With]]
	}
	return c
}

// replacedWith is the replaced object that c goes along with; nil if there is none.
func (d *differ) replacedWith(c *resource.Change) *resource.Change {
	if root := d.root(c); root != c && root.Action == resource.Replace {
		return root
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
