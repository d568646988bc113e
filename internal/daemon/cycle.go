package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/internal/guard"
	"plumb.internal/plumb/internal/health"
	"plumb.internal/plumb/internal/history"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
)

// start decides what counts first. A node without anything of ours has been booted: it gets the last good state before any
// file is read. On a node that is at work the files come first: what they say may have been put in force before, though not
// yet kept, and going back to the last good state in between would cut it.
func (d *Daemon) start(ctx context.Context) error {
	var err error
	if d.revision, err = history.Newest(d.StateDir, d.Node); err != nil {
		d.Log.Error("the history can't be read", "err", err)
	}
	_, err = os.Stat(d.heldPath())
	d.held = err == nil
	o, err := reconciler.Observe(ctx, d.Host, resource.State{})
	if err != nil {
		return err
	}
	d.told = health.Observed(o.Owned)
	d.prober.Adopt(d.told)
	good, err := d.lastGood(ctx)
	if err != nil {
		d.Log.Error("the last good state can't be used", "err", err)
	}
	d.enforce(good)
	if len(o.Owned) == 0 && d.inForce != nil && !d.isSuspended() {
		d.touched = false
		d.cycle(ctx)
		d.touched = true
	}
	return nil
}

// Outcome is how a single cycle ended that left something to be done.
type Outcome struct {
	api.Status
	Refused error // why the files' change waits; nil if it doesn't
}

// Error implements error.
func (o *Outcome) Error() string { return o.State + ": " + o.Reason }

// Once does one cycle, as Run does its first. The error is an *Outcome where the node isn't as the files say.
func (d *Daemon) Once(ctx context.Context) error {
	defer d.close()
	d.Reach = nil // nobody asks it
	if err := d.open(ctx); err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	if err := d.start(ctx); err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	for {
		if retry := d.cycle(ctx); retry != retryLock {
			break
		}
		select { // another process is at work
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryLock):
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s := d.Status()
	if s.State == api.Converged {
		return nil
	}
	o := &Outcome{Status: s}
	if d.candidate != nil {
		o.Refused = d.candidate.refused
	}
	return o
}

// cycle does once all that there is to do. It returns after how long it wants to be called again at the latest; 0 for
// whenever something happens.
func (d *Daemon) cycle(ctx context.Context) (retry time.Duration) {
	began := time.Now()
	defer func() { d.publish(began) }()
	d.changed = false
	if d.waits = ""; d.isSuspended() {
		return 0
	}
	// What made a look fail may be a machine that isn't any more what the files were compiled for.
	whole := d.failed || !d.whole.IsZero() && time.Since(d.whole) >= d.Interval
	if whole {
		d.reconsider(ctx)
	}
	if d.touched || whole { // not everything that files are on tells of changes
		d.evaluate(ctx)
	}
	unlock, err := reconciler.Lock(d.Host)
	if err != nil {
		d.waits = err.Error()
		if locked := new(reconciler.LockedError); errors.As(err, &locked) {
			return retryLock
		}
		d.tellError("can't begin", err)
		return retryError
	}
	d.tellError("can't begin", nil)
	defer unlock()
	defer d.Host.LetGo()
	said, err := guard.Resolve(ctx, d.Host)
	if said != "" {
		d.Log.Warn(said)
	}
	if pending := new(guard.PendingError); errors.As(err, &pending) {
		d.waits = err.Error()
		return retryError
	}
	if err == nil {
		d.tellError("what somebody else applied can't be taken over", d.follow(ctx))
		err = d.reconcile(ctx)
		if d.inForce != nil && d.Reach != nil { // who destroys the node has the lock until its folder is gone
			d.unreachable = d.Reach()
		}
	}
	d.metrics.cycle(time.Since(began), err)
	d.note(&d.ran.cycles, err)
	if ctx.Err() != nil {
		return 0
	}
	d.failed = err != nil
	d.tellError("a cycle failed", err)
	if err != nil {
		d.waits = err.Error()
		return retryError
	}
	if d.candidate != nil && d.changed {
		return retryLock // what had to wait as the node was may not have to any more
	}
	return 0
}

// tellError logs an error of the daemon's own unless it is the same as before.
func (d *Daemon) tellError(what string, err error) {
	if err == nil {
		delete(d.errors, what)
		return
	}
	if text := err.Error(); text != d.errors[what] {
		d.errors[what] = text
		d.Log.Error(what, "err", err)
	}
}
