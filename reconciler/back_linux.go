package reconciler

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpflink"
	"plumb.internal/plumb/reconciler/resource/bpfprog"
	"plumb.internal/plumb/reconciler/resource/netns"
)

// keeping is a plan without the deletes of what can't be made again.
func (t table) keeping(p *resource.Plan) *resource.Plan {
	rest := *p
	rest.Changes = slices.DeleteFunc(slices.Clone(p.Changes), t.kept)
	return &rest
}

func (t table) kept(c resource.Change) bool {
	k, ok := t[c.ID.Kind]
	return ok && c.Action == resource.Delete && k.keeps()
}

// Kept lists what an apply of p with ApplyOptions.Keep leaves although nothing wants it any more.
func Kept(p *resource.Plan) []resource.ID {
	var ids []resource.ID
	for _, c := range p.Changes {
		if kinds.kept(c) {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// Drop ends the possibility to take an apply back: it deletes what that left, but for what something uses again, and the
// namespaces that it set aside.
func Drop(ctx context.Context, h *host.Host, kept []resource.ID) error {
	o, err := Observe(ctx, h, resource.State{})
	if err != nil {
		return err
	}
	// Services and endpoints are in every map of a name; only programs use one. What is attached uses programs.
	used := map[resource.ID]bool{}
	for found := true; found; { // then what uses something that is used
		found = false
		for id, r := range o.Owned {
			if id.Kind != bpflink.Kind && id.Kind != bpfprog.Kind || slices.Contains(kept, id) && !used[id] {
				continue
			}
			for _, need := range r.After() {
				found = found || !used[need]
				used[need] = true
			}
		}
	}
	p := &resource.Plan{}
	for _, id := range kept {
		if r, ok := o.Owned[id]; ok && !used[id] {
			p.Changes = append(p.Changes, resource.Change{ID: id, Action: resource.Delete, Before: r})
		}
	}
	if err := Apply(ctx, h, p, ApplyOptions{}); err != nil {
		return err
	}
	return netns.DropAside(h)
}

// Back brings the host to a recorded state, whatever an apply has done and wherever it was cut off, and verifies it. It asks
// nobody, and somebody else's objects don't stop it: they were beside ours before. Not everything in the way is known: a
// setting that switches a family off keeps addresses from coming back, and goes only after them. So where something fails,
// what goes and what changes has a round of its own, and the rest is tried again.
func Back(ctx context.Context, h *host.Host, before resource.State) error {
	var last error
	for round := range rounds {
		o, err := Observe(ctx, h, before)
		if err != nil {
			return err
		}
		p, err := Diff(before, o)
		if err != nil {
			return err
		}
		if p.Empty() {
			break
		}
		p.Conflicts = nil
		adds := func(c resource.Change) bool { return c.Action == resource.Create }
		only := round == 1 && slices.ContainsFunc(p.Changes, func(c resource.Change) bool { return !adds(c) })
		if only {
			p.Changes = slices.DeleteFunc(p.Changes, adds)
		}
		if last = Apply(ctx, h, p, ApplyOptions{}); last == nil && !only {
			break
		}
	}
	if err := Verify(ctx, h, before); err != nil {
		return fmt.Errorf("go back to the state from before: %w", errors.Join(last, err))
	}
	if err := netns.DropAside(h); err != nil {
		return err
	}
	return h.UnshareFolder() // where the apply was cut off just before
}

// rounds is how often going back is tried.
const rounds = 4
