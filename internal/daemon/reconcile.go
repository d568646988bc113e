package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/go-multierror"

	"plumb.internal/plumb/internal/guard"
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

// What is changed and isn't so afterwards is tried this often before it counts as failed, with a pause in between: the
// kernel does some things in its own time.
const (
	attempts    = 4
	settleEvery = 20 * time.Millisecond
)

// oneByOne is the number of changes up to which each is a line of the log.
const oneByOne = 64

// reconcile puts the candidate in force, if it may be, and makes the node what is in force.
func (d *Daemon) reconcile(ctx context.Context) error {
	d.consult()
	heard := d.kernel.Take()
	if d.small(heard) {
		if d.places = d.inForce.places(heard); d.places != nil {
			d.part = reconciler.Within(d.inForce.compiled.State, d.places)
		} else {
			d.part = d.inForce.network()
		}
		_, p, err := d.look(ctx, d.inForce)
		if err == nil && !slices.ContainsFunc(p.Changes, onLinks) {
			err = d.settle(ctx, p, heard)
			d.part, d.places = nil, nil
			return err
		}
		d.part, d.places = nil, nil
	}
	d.whole, d.litter = time.Time{}, true
	if err := d.all(ctx, heard); err != nil {
		return err
	}
	d.whole = time.Now()
	return nil
}

// all looks at the whole node.
func (d *Daemon) all(ctx context.Context, heard watch.Events) (err error) {
	p := d.few(ctx, heard)
	if c := d.candidate; c != nil {
		o, plan, err := d.look(ctx, c)
		if err != nil {
			d.refuse(c, err)
		} else if d.mayPass(c, plan, o) {
			p = plan
		}
	}
	if d.inForce == nil {
		return nil
	}
	if p == nil {
		if _, p, err = d.look(ctx, d.inForce); err != nil {
			return err
		}
	}
	return d.settle(ctx, p, heard)
}

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

// mayPass puts the candidate in force unless somebody has to allow it first, or foreign objects are in the way.
func (d *Daemon) mayPass(c *version, p *resource.Plan, o *reconciler.Observed) bool {
	allowed := reconciler.Allowed{Disruption: d.Allowed.Disruption || c.grant.Disruption, Delete: d.Allowed.Delete || c.grant.Delete}
	c.summary = p.Summary()
	err := reconciler.Refuse(p, o, allowed)
	if err == nil && !p.Empty() {
		var back *guard.Reverted
		if back, err = guard.LastReverted(d.Host); err == nil && back != nil && back.Digest == c.digest {
			err = back // put in force again, it would cut the way to the operator again
		}
	}
	if err != nil {
		d.refuse(c, err)
		return false
	}
	c.refused = nil
	d.candidate = nil
	d.enforce(c)
	return true
}

// refuse leaves what is in force as it is.
func (d *Daemon) refuse(c *version, err error) {
	if c.refused == nil || c.refused.Error() != err.Error() {
		d.Log.Warn("a change of the files waits; what was in force stays", "needs", needs(err), "err", err)
	}
	c.refused = err
}

// enforce makes a version what the node is kept at; nil for nothing.
func (d *Daemon) enforce(v *version) {
	d.inForce = v
	if v == nil {
		d.prober.Set(nil)
		return
	}
	d.prober.Set(v.compiled.Health)
	d.verdicts = d.prober.Verdicts() // a new frontend may have a backend that is known to be down
	for _, w := range v.compiled.Warnings {
		d.Log.Warn(w)
	}
}

// needs names the flags that a refused change needs; none help against a conflict.
func needs(err error) []string {
	if e := new(reconciler.DisruptionError); errors.As(err, &e) {
		return []string{"--allow-disruption"}
	}
	if e := new(reconciler.DeletionError); errors.As(err, &e) {
		return []string{"--allow-delete"}
	}
	return []string{}
}

// settle carries out plans until nothing is left to do, but for what fails. What the last look finds is thereby verified.
func (d *Daemon) settle(ctx context.Context, p *resource.Plan, heard watch.Events) error {
	tried, told := map[resource.ID]int{}, !heard.Empty()
	changed, settled := false, false
	for waited := 0; ; {
		made, left, err := d.step(ctx, p, heard)
		if err != nil {
			return err
		}
		changed = changed || len(made) > 0
		if !left {
			if len(p.Changes) > 0 || !changed || d.inForce.verified || settled || waited == attempts {
				break
			}
			waited++
			d.await(ctx)
		}
		settled = !left
		heard = d.kernel.Take()
		d.widen(heard)
		if _, p, err = d.look(ctx, d.inForce); err != nil {
			return err
		}
		if err := d.again(ctx, p, made, tried); err != nil {
			return err
		}
	}
	if d.places != nil {
		// None came or went.
	} else if err := d.kernel.Look(ctx); err != nil {
		d.Log.Error("some namespaces can't be listened to; a full look finds what happens there", "err", err)
	}
	d.noise(changed, told)
	defer d.Host.Forget() // the dumps of a thousand namespaces
	if len(p.Changes) > 0 || len(p.Conflicts) > 0 {
		return nil
	}
	d.inForce.verified = true
	clear(d.expected)
	d.tellError("the last good state can't be kept", d.keep())
	return nil
}

// step carries out one plan, but for what has to rest. It returns what was changed, and whether it is worth looking again.
func (d *Daemon) step(ctx context.Context, p *resource.Plan, heard watch.Events) (made []resource.ID, left bool, err error) {
	for _, id := range d.backoff.keep(p.Changes) {
		d.Log.Info("as it should be again", "object", id.String())
	}
	d.conflicts = p.Conflicts
	skip := d.backoff.resting(time.Now())
	for _, c := range p.Conflicts {
		skip[c.ID] = true
	}
	if !anything(p, skip) {
		return nil, false, nil
	}
	if err := d.Host.Settle(); err != nil {
		return nil, false, err
	}
	d.tell(p, skip, heard)
	made, failed, err := d.apply(ctx, p, skip)
	return made, len(made)+failed > 0, err // if neither, the rest waits for what is skipped
}

// dropTime is how long a kernel may take to drop what it drops after the fact.
const dropTime = 300 * time.Millisecond

// await gives a kernel time to drop what it drops after the fact.
func (d *Daemon) await(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, dropTime)
	defer cancel()
	if err := reconciler.AwaitDrops(ctx, d.Host, d.inForce.compiled.State); err != nil {
		d.Log.Debug("can't tell whether the kernel still drops proxy entries", "err", err)
	}
}

// anything reports whether a plan changes more than what is to be skipped.
func anything(p *resource.Plan, skip map[resource.ID]bool) bool {
	for _, c := range p.Changes {
		if !skip[c.ID] {
			return true
		}
	}
	return false
}

// apply carries out a plan. It returns what was changed; failures of single objects are noted, and only counted here.
func (d *Daemon) apply(ctx context.Context, p *resource.Plan, skip map[resource.ID]bool) (made []resource.ID, failed int, err error) {
	err = reconciler.Apply(ctx, d.Host, p, reconciler.ApplyOptions{Skip: skip, Progress: func(done, total int, c resource.Change) {
		made = append(made, c.ID)
		d.metrics.changed(c)
		if done%1000 == 0 {
			d.Notify("WATCHDOG=1")
		}
	}})
	if ctx.Err() != nil {
		return made, 0, ctx.Err()
	}
	var rest *multierror.Error
	var all *multierror.Error
	if !errors.As(err, &all) {
		return made, 0, err
	}
	for _, e := range all.Errors {
		c := new(reconciler.ChangeError)
		if !errors.As(e, &c) {
			rest = multierror.Append(rest, e)
			continue
		}
		failed++
		d.fails(c.ID, c)
	}
	return made, failed, rest.ErrorOrNil()
}

// fails notes that an object can't be changed.
func (d *Daemon) fails(id resource.ID, err error) {
	d.metrics.failed(id)
	if d.backoff.failed(id, err, time.Now()) {
		d.Log.Error("can't be made what it should be; it is left alone for a while", "object", id.String(), "err", err)
	}
}

// again looks at what was changed and differs all the same. After some attempts it counts as failed.
func (d *Daemon) again(ctx context.Context, p *resource.Plan, made []resource.ID, tried map[resource.ID]int) error {
	for _, id := range made {
		tried[id]++
	}
	pause := false
	for _, c := range p.Changes {
		if tried[c.ID] >= attempts {
			d.fails(c.ID, fmt.Errorf("%s doesn't take: %s", c.Action, c.Reason))
			tried[c.ID] = 0
		}
		pause = pause || tried[c.ID] > 1
	}
	if !pause {
		return nil
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(settleEvery):
		return nil
	}
}

// Events that lead to nothing are looked into more and more seldom, and at once again after one that led to something.
const (
	noiseFree = 3
	noiseMost = time.Second
)

// noise counts cycles that were told of something and found nothing to do.
func (d *Daemon) noise(changed, told bool) {
	if changed {
		d.idle = 0
	}
	if changed || !told {
		return
	}
	d.idle++
	if over := d.idle - noiseFree; over > 0 {
		d.deaf = time.Now().Add(min(time.Millisecond<<min(over, 20), noiseMost))
	}
}
