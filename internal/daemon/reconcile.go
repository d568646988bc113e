package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/go-multierror"

	"plumb.internal/plumb/internal/guard"
	"plumb.internal/plumb/internal/watch"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
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
	err := d.all(ctx, heard)
	if d.note(&d.ran.looks, err); err != nil {
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

// mayPass puts the candidate in force unless somebody has to allow it first, or foreign objects are in the way.
func (d *Daemon) mayPass(c *version, p *resource.Plan, o *reconciler.Observed) bool {
	c.summary = p.Summary()
	err := reconciler.Refuse(p, o, d.Allowed)
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
	d.changed = changed
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
