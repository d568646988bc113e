package reconciler

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"plumb.internal/plumb/reconciler/resource"
)

// op is what one step does.
type op int

// The steps that changes are made of: a replace is a delete and a create. A barrier does nothing but come between.
const (
	opDelete op = iota
	opUpdate
	opCreate
	opBarrier
)

// action is the step's word in errors.
func (o op) action() resource.Action {
	return [...]resource.Action{resource.Delete, resource.Update, resource.Create, ""}[o]
}

// step is one call on one object.
type step struct {
	change int // index of its change; -1 for a barrier
	op     op
	id     resource.ID
	pod    string // the sub-tree it belongs to: steps of one stay together, which keeps the cut short
	last   bool   // a delete that nothing waits for: after everything that adds
	before []int  // steps that must be done first
	// moves are those of before that exist only because this step takes its object away from something that goes. If
	// they close a circle, the object may as well go along and be created again.
	moves []int
}

// graph is the steps of a plan and what each waits for. It is all that an apply needs to know.
type graph struct {
	steps   []step
	changes []resource.Change
	built   map[resource.ID]int // the step after which an object is as desired
	gone    map[resource.ID]int // the step after which an object is gone; it may be another object's
}

// newGraph works out the steps of changes and what must come before what.
func newGraph(changes []resource.Change) *graph {
	n := len(changes)
	g := &graph{changes: changes, steps: make([]step, 0, n), built: make(map[resource.ID]int, n), gone: map[resource.ID]int{}}
	with := map[resource.ID]resource.ID{} // what goes along with another object
	for i, c := range changes {
		if c.With != nil {
			with[c.ID] = *c.With
		} else if c.Action == resource.Delete || c.Action == resource.Replace {
			g.gone[c.ID] = g.add(i, opDelete, c)
		}
		switch c.Action {
		case resource.Update:
			g.built[c.ID] = g.add(i, opUpdate, c)
		case resource.Create, resource.Replace:
			g.built[c.ID] = g.add(i, opCreate, c)
		}
	}
	for id := range with {
		if s, ok := g.goneWith(id, with); ok {
			g.gone[id] = s
		}
	}
	for _, c := range changes {
		g.order(c)
	}
	g.inherit()
	g.read()
	g.switches()
	g.claims()
	g.found()
	g.postpone()
	g.addFirst()
	return g
}

// add appends one step.
func (g *graph) add(change int, o op, c resource.Change) int {
	r := c.After
	if o == opDelete || r == nil {
		r = c.Before
	}
	g.steps = append(g.steps, step{change: change, op: o, id: c.ID, pod: resource.Pod(r), last: c.Action == resource.Delete})
	return len(g.steps) - 1
}

// goneWith follows what an object goes along with, up to a step of its own.
func (g *graph) goneWith(id resource.ID, with map[resource.ID]resource.ID) (int, bool) {
	for range len(with) + 1 {
		if s, ok := g.gone[id]; ok {
			return s, true
		}
		next, ok := with[id]
		if !ok {
			return 0, false
		}
		id = next
	}
	return 0, false
}

// wait makes step s wait for step first.
func (g *graph) wait(s, first int) {
	if s != first {
		g.steps[s].before = append(g.steps[s].before, first)
	}
}

// order puts the steps of c after those of what it needs, and before the removal of what it needs no more.
func (g *graph) order(c resource.Change) {
	if s, ok := g.built[c.ID]; ok {
		for _, p := range needs(c.After) {
			if first, ok := g.built[p]; ok {
				g.wait(s, first)
			}
		}
		if c.Action == resource.Update {
			now := needs(c.After)
			for _, p := range needs(c.Before) {
				if end, ok := g.gone[p]; ok && !slices.Contains(now, p) {
					g.wait(end, s)
					g.steps[end].moves = append(g.steps[end].moves, s)
				}
			}
		}
		if d, ok := g.gone[c.ID]; ok && c.Action == resource.Replace {
			g.wait(s, d)
		}
	}
	if c.With != nil || (c.Action != resource.Delete && c.Action != resource.Replace) {
		return
	}
	d := g.gone[c.ID]
	for _, p := range needs(c.Before) {
		if end, ok := g.gone[p]; ok {
			g.wait(end, d)
		}
	}
}

// inherit puts heirs before the removal of those that they take over from, and of what is in these.
func (g *graph) inherit() {
	key := func(r resource.Resource) string {
		if h, ok := r.(resource.Heir); ok {
			return string(r.ID().Kind) + " " + h.Inherits()
		}
		return ""
	}
	heirs := map[string][]int{}
	for _, c := range g.changes {
		if k := key(c.After); k != "" && c.Action == resource.Create {
			heirs[k] = append(heirs[k], g.built[c.ID])
		}
	}
	if len(heirs) == 0 {
		return
	}
	heirsOf := map[resource.ID][]int{}
	for _, c := range g.changes {
		if k := key(c.Before); k != "" && c.Action == resource.Delete && len(heirs[k]) > 0 {
			heirsOf[c.ID] = heirs[k]
		}
	}
	for _, c := range g.changes {
		if c.Action != resource.Delete || c.With != nil {
			continue
		}
		end := g.gone[c.ID]
		for _, p := range append(needs(c.Before), c.ID) {
			for _, heir := range heirsOf[p] {
				g.wait(end, heir)
			}
		}
	}
}

// read puts what is written anew before the updates of those that read it: a program in the place of another one knows from its
// first packet on what that one knew, though its maps are new.
func (g *graph) read() {
	written, readers := map[resource.Kind][]int{}, map[resource.Kind][]int{}
	for _, c := range g.changes {
		switch c.Action {
		case resource.Create:
			written[c.ID.Kind] = append(written[c.ID.Kind], g.built[c.ID])
		case resource.Update:
			if r, ok := c.After.(resource.Reader); ok {
				for _, kind := range r.Reads() {
					readers[kind] = append(readers[kind], g.built[c.ID])
				}
			}
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(readers)) {
		g.between(resource.ID{Kind: kind, Name: "all"}, written[kind], readers[kind])
	}
}

// claims puts every release of a claim before the first step that acquires it with another value.
func (g *graph) claims() {
	type holders struct{ released, acquired []int } // steps
	byKey := map[string]map[string]*holders{}       // by key and value
	at := func(c resource.Claim) *holders {
		if byKey[c.Key] == nil {
			byKey[c.Key] = map[string]*holders{}
		}
		if byKey[c.Key][c.Value] == nil {
			byKey[c.Key][c.Value] = &holders{}
		}
		return byKey[c.Key][c.Value]
	}
	for _, c := range g.changes {
		before := exclusive(c.Before)
		if s, ok := g.gone[c.ID]; ok {
			for _, cl := range before {
				at(cl).released = append(at(cl).released, s)
			}
		}
		s, ok := g.built[c.ID]
		if !ok {
			continue
		}
		for _, cl := range exclusive(c.After) {
			if c.Action != resource.Update || !slices.Contains(before, cl) {
				at(cl).acquired = append(at(cl).acquired, s)
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		values := slices.Sorted(maps.Keys(byKey[key]))
		for _, value := range values {
			var others []int
			for _, other := range values {
				if other != value {
					others = append(others, byKey[key][other].released...)
				}
			}
			g.between(resource.ID{Kind: "claim", Name: key + " " + value}, others, byKey[key][value].acquired)
		}
	}
}

// siblings are the steps on what one parent takes along: a device's addresses, routes and neighbours.
type siblings struct {
	first, adds, last []int // founding creates, other creates and updates, deletes that nothing waits for
}

// families sorts the steps by parent.
func (g *graph) families() (byParent map[resource.ID]*siblings, parents []resource.ID) {
	byParent = map[resource.ID]*siblings{}
	for i := range g.steps {
		st := &g.steps[i]
		if st.change < 0 || (st.op == opDelete && !st.last) {
			continue
		}
		c := g.changes[st.change]
		r := c.After
		if st.op == opDelete {
			r = c.Before
		}
		for _, p := range r.DiesWith() {
			f := byParent[p]
			if f == nil {
				f = &siblings{}
				byParent[p] = f
				parents = append(parents, p)
			}
			founder, _ := r.(resource.Founder)
			switch {
			case st.op == opDelete:
				f.last = append(f.last, i)
			case founder != nil && founder.Founds():
				f.first = append(f.first, i)
			default:
				f.adds = append(f.adds, i)
			}
		}
	}
	slices.SortFunc(parents, resource.ID.Compare)
	return byParent, parents
}

// between makes each of later wait for all of earlier.
func (g *graph) between(name resource.ID, earlier, later []int) {
	if len(earlier) == 0 || len(later) == 0 {
		return
	}
	g.steps = append(g.steps, step{change: -1, op: opBarrier, id: name})
	barrier := len(g.steps) - 1
	for _, s := range earlier {
		g.wait(barrier, s)
	}
	for _, s := range later {
		g.wait(s, barrier)
	}
}

// found puts what others on the same device rely on before them.
func (g *graph) found() {
	byParent, parents := g.families()
	for _, p := range parents {
		g.between(p, byParent[p].first, byParent[p].adds)
	}
}

// addFirst makes adds on a device come before deletes, in parallel too: with its last IPv4 address a device loses all its
// IPv4 routes.
func (g *graph) addFirst() {
	byParent, parents := g.families()
	for _, p := range parents {
		f := byParent[p]
		g.between(p, slices.Concat(f.first, f.adds), f.last)
	}
}

// postpone lets deletes that nothing waits for come after everything that adds.
func (g *graph) postpone() {
	var visit func(s int)
	seen := make([]bool, len(g.steps))
	visit = func(s int) {
		if seen[s] {
			return
		}
		seen[s] = true
		for _, b := range g.steps[s].before {
			visit(b)
		}
	}
	for i, s := range g.steps {
		if !s.last && s.op != opBarrier {
			visit(i)
		}
	}
	for i := range g.steps {
		g.steps[i].last = g.steps[i].last && !seen[i]
	}
}

// compare is the order among steps that are all possible: adds first, pod by pod.
func (g *graph) compare(a, b int) int {
	x, y := &g.steps[a], &g.steps[b]
	if x.last != y.last {
		if x.last {
			return 1
		}
		return -1
	}
	return cmp.Or(cmp.Compare(x.pod, y.pod), x.id.Compare(y.id), cmp.Compare(x.op, y.op), cmp.Compare(a, b))
}

// finishes reports whether a step is the last one of its change.
func (g *graph) finishes(s step) bool {
	return s.op == opUpdate || s.op == opCreate || (s.op == opDelete && g.changes[s.change].Action == resource.Delete)
}

// sorted returns the steps in an order that works one by one. If there is none, circle holds steps that wait for each
// other all around.
func (g *graph) sorted() (order, circle []int) {
	r := newReady(g)
	for r.Len() > 0 {
		s := r.take()
		order = append(order, s)
		r.done(s)
	}
	if len(order) == len(g.steps) {
		return order, nil
	}
	return nil, g.circle(r)
}

// circle finds one circle among the steps that never became possible: from any of them, back along what it waits for.
func (g *graph) circle(r *ready) []int {
	at := slices.IndexFunc(r.missing, func(n int) bool { return n > 0 })
	var path []int
	seen := map[int]int{}
	for {
		if i, ok := seen[at]; ok {
			path = path[i:]
			slices.Reverse(path)
			return path
		}
		seen[at] = len(path)
		path = append(path, at)
		at = g.steps[at].before[slices.IndexFunc(g.steps[at].before, func(b int) bool { return r.missing[b] > 0 })]
	}
}

// circleError names the objects of a circle.
func (g *graph) circleError(circle []int) error {
	var names []string
	for _, s := range append(circle, circle[0]) {
		name := g.steps[s].id.String()
		if len(names) == 0 || names[len(names)-1] != name {
			names = append(names, name)
		}
	}
	return fmt.Errorf("order the changes: these wait for each other: %s", strings.Join(names, " -> "))
}

// needs lists what r cannot be without.
func needs(r resource.Resource) []resource.ID {
	if r == nil {
		return nil
	}
	ids := slices.Clip(r.After()) // which aren't ours to change
	for _, id := range r.DiesWith() {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// claimsOf lists the claims of r, if it has any.
func claimsOf(r resource.Resource) []resource.Claim {
	if c, ok := r.(resource.Claimer); ok {
		return c.Claims()
	}
	return nil
}

// claims reports whether objects like r need something for themselves.
func claims(r resource.Resource) bool {
	_, claimer := r.(resource.Claimer)
	_, maker := r.(resource.Maker)
	return claimer || maker
}

// exclusive lists everything that r needs for itself: its claims, and the names of its devices.
func exclusive(r resource.Resource) []resource.Claim {
	claims := claimsOf(r)
	if m, ok := r.(resource.Maker); ok {
		for _, d := range m.Devices() {
			claims = append(claims, resource.Claim{Key: "device " + d.NetNS + "/" + d.Name, Value: r.ID().String()})
		}
	}
	return claims
}
