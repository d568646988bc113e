package daemon

import (
	"context"
	"slices"
	"time"

	"plumb.internal/plumb/internal/health"
	"plumb.internal/plumb/internal/watch"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/addr"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/reconciler/resource/neigh"
	"plumb.internal/plumb/reconciler/resource/netns"
	"plumb.internal/plumb/reconciler/resource/route"
	"plumb.internal/plumb/reconciler/resource/rule"
	"plumb.internal/plumb/reconciler/resource/sysctl"
)

// fewObjects is how many services may change for them to be looked at one by one.
const fewObjects = 64

// few puts the candidate in force at once if it only changes a few services of a node that is known to be as it should be:
// then these are looked at, and the plan is about them alone. All else is looked at right after, before any of it counts as
// verified. Where something is wrong it leaves it to a whole look, which says more.
func (d *Daemon) few(ctx context.Context, heard watch.Events) *resource.Plan {
	c := d.candidate
	if c == nil || c.refused != nil || !d.right() || !heard.Empty() {
		return nil
	}
	was, is, ok := reconciler.Alone(d.inForce.compiled.State, c.compiled.State, fewObjects)
	if !ok {
		return nil
	}
	is = health.Overlay(is, d.verdicts)
	o, err := reconciler.ObserveOnly(ctx, d.Host, was, is)
	if err != nil {
		return nil
	}
	p, err := reconciler.Diff(is, o)
	if err != nil || p.Empty() || reconciler.Refuse(p, o, d.Allowed) != nil || !d.mayPass(c, p, o) {
		return nil
	}
	c.verified = true
	for _, change := range p.Changes {
		d.expected[change.ID] = true
	}
	return p
}

// right reports whether the node was as what is in force says when it was last looked at.
func (d *Daemon) right() bool {
	return d.inForce != nil && d.inForce.verified && len(d.backoff)+len(d.conflicts)+len(d.expected) == 0
}

// small reports whether it is enough to look at the network: nothing was heard of but routes and the like, which take nothing
// else along, everything was as it should be before, and the time for a whole look hasn't come.
func (d *Daemon) small(heard watch.Events) bool {
	return d.candidate == nil && d.right() && !heard.Empty() && onlyNetwork(heard) && time.Since(d.whole) < d.Interval
}

func onlyNetwork(heard watch.Events) bool {
	for _, e := range heard.List {
		switch e.Kind {
		case route.Kind, rule.Kind, neigh.Kind, addr.Kind, sysctl.Kind:
		default:
			return false
		}
	}
	return !heard.Lost
}

// widen makes the looks of a small one whole where something was heard of that these leave out.
func (d *Daemon) widen(heard watch.Events) {
	if d.part == nil {
		return
	}
	elsewhere := func(e watch.Event) bool { return e.Kind == sysctl.Kind || !slices.Contains(d.places, e.NetNS) }
	if !onlyNetwork(heard) || d.places != nil && slices.ContainsFunc(heard.List, elsewhere) {
		d.part, d.places = nil, nil
	}
}

// fewPlaces is in how many namespaces something may happen for these alone to be looked at.
const fewPlaces = 16

// places are the namespaces that events are of, nil where all are to be looked at: there are many, something other than what is on
// links is concerned, or a namespace is somebody else's, which may be replaced.
func (v *version) places(heard watch.Events) (names []string) {
	for _, e := range heard.List {
		if e.Kind == sysctl.Kind {
			return nil // a record of them all is kept
		}
		if slices.Contains(names, e.NetNS) {
			continue
		}
		ns, ours := v.compiled.State[netns.For(e.NetNS)].(netns.NetNS)
		if e.NetNS != "" && (!ours || ns.Path != "") || len(names) == fewPlaces {
			return nil
		}
		names = append(names, e.NetNS)
	}
	return names
}

// onLinks reports whether a change is of what takes others along.
func onLinks(c resource.Change) bool { return c.ID.Kind == link.Kind || c.ID.Kind == netns.Kind }

// network is the part of the state that a small look compares.
func (v *version) network() resource.State {
	if v.part == nil {
		v.part = reconciler.Network(v.compiled.State)
	}
	return v.part
}

// look observes the node, or a part of it, and says what a version of it would change.
func (d *Daemon) look(ctx context.Context, v *version) (*reconciler.Observed, *resource.Plan, error) {
	if d.part != nil {
		o, err := d.observePart(ctx)
		if err != nil {
			return nil, nil, err
		}
		p, err := reconciler.Diff(d.part, o)
		return o, p, err
	}
	desired := health.Overlay(v.compiled.State, d.verdicts)
	o, err := reconciler.Observe(ctx, d.Host, desired)
	if err != nil {
		return nil, nil, err
	}
	p, err := reconciler.Diff(desired, o)
	return o, p, err
}

func (d *Daemon) observePart(ctx context.Context) (*reconciler.Observed, error) {
	if d.places != nil {
		return reconciler.ObserveWithin(ctx, d.Host, d.part, d.places)
	}
	return reconciler.ObserveNetwork(ctx, d.Host, d.part)
}
