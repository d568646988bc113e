package reconciler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-multierror"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// ApplyOptions say how an apply runs.
type ApplyOptions struct {
	// Parallel is how many independent changes may run at once; 0 takes a few a processor, 1 runs the plan in its own
	// order on the caller's goroutine.
	Parallel int
	// Progress, if set, is told after each change. It is never called twice at once.
	Progress func(done, total int, c resource.Change)
	// Keep is for an apply that may be taken back: what couldn't be made again stays for now. See Kept and Drop.
	Keep bool
	// Skip are objects to leave as they are, and with them what waits for them. That is no error, and a conflict of one of
	// them keeps nothing else from being changed.
	Skip map[resource.ID]bool
}

// errLeft is the cause of what waits for an object that is left as it is; nobody gets to see it.
var errLeft = errors.New("left as it is")

// workers is the number of changes at once.
func (o ApplyOptions) workers() int {
	if o.Parallel > 0 {
		return o.Parallel
	}
	return min(8, 2*runtime.GOMAXPROCS(0))
}

// apply makes the changes of a plan. A change that fails skips only what depends on it; the error holds a ChangeError for
// each. When ctx ends, changes under way are finished and no other is begun.
func (t table) apply(ctx context.Context, h *host.Host, p *resource.Plan, opt ApplyOptions) error {
	if met := slices.DeleteFunc(slices.Clone(p.Conflicts), func(c resource.Conflict) bool { return opt.Skip[c.ID] }); len(met) > 0 {
		return &ConflictError{met}
	}
	if p.Empty() {
		return nil
	}
	g := newGraph(p.Changes)
	first := newReady(g)
	if !first.ends() {
		_, circle := g.sorted()
		return g.circleError(circle)
	}
	r := &run{kinds: t, host: h, g: g, opt: opt, ready: first, left: len(g.steps), cause: make([]*ChangeError, len(g.steps))}
	r.wake.L = &r.mu
	for i, s := range g.steps {
		if g.finishes(s) {
			r.total++
		}
		if opt.Skip[s.id] {
			r.cause[i] = &ChangeError{ID: s.id, Action: s.op.action(), Err: errLeft}
		}
	}
	defer context.AfterFunc(ctx, r.stop)()
	if opt.workers() == 1 {
		r.work(ctx)
	} else {
		var wg sync.WaitGroup
		for range min(opt.workers(), len(g.steps)) {
			wg.Go(func() { r.work(ctx) })
		}
		wg.Wait()
	}
	return r.err(ctx, t.finish(context.WithoutCancel(ctx), h))
}

// finish lets every kind do what it does once for all its changes.
func (t table) finish(ctx context.Context, h *host.Host) (errs []error) {
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if err := t[name].finish(ctx, h); err != nil {
			errs = append(errs, fmt.Errorf("finish %s: %w", name, err))
		}
	}
	return errs
}

// run is one apply under way.
type run struct {
	kinds table
	host  *host.Host
	g     *graph
	opt   ApplyOptions

	mu     sync.Mutex
	wake   sync.Cond // something became possible, or everything is over
	ready  *ready
	left   int            // steps neither done nor skipped
	adding int            // those of them under way that aren't deletes which come last
	cause  []*ChangeError // why a step is to be skipped
	failed []*ChangeError
	made   int // changes that are done
	total  int // changes that have steps: what the kernel takes along has none
}

// stop wakes the workers so that they see the end of the context.
func (r *run) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wake.Broadcast()
}

// work takes steps until there are no more.
func (r *run) work(ctx context.Context) {
	for {
		s, ok := r.next(ctx)
		if !ok {
			return
		}
		r.finish(s, r.do(context.WithoutCancel(ctx), r.g.steps[s]))
	}
}

// next waits for a step that can be run. Barriers and skipped steps are settled on the way. Deletes that come last wait for
// all that others are still adding: what takes over must work before what it takes over from goes.
func (r *run) next(ctx context.Context) (int, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for ctx.Err() == nil && r.left > 0 {
		if r.ready.Len() == 0 || r.adding > 0 && r.g.steps[r.ready.first()].last {
			r.wake.Wait()
			continue
		}
		s := r.ready.take()
		if r.cause[s] == nil && r.g.steps[s].op != opBarrier {
			if !r.g.steps[s].last {
				r.adding++
			}
			return s, true
		}
		if why := r.cause[s]; why != nil {
			if id := r.g.steps[s].id; r.g.steps[s].op != opBarrier && !slices.Contains(why.Skipped, id) && id != why.ID {
				why.Skipped = append(why.Skipped, id)
			}
		}
		r.settle(s)
	}
	return 0, false
}

// do makes one call.
func (r *run) do(ctx context.Context, s step) error {
	c := r.g.changes[s.change]
	k, ok := r.kinds[c.ID.Kind]
	if !ok {
		return fmt.Errorf("no such kind of object")
	}
	switch s.op {
	case opDelete:
		return k.delete(ctx, r.host, c.Before)
	case opUpdate:
		return k.update(ctx, r.host, c.Before, c.After)
	}
	return k.create(ctx, r.host, c.After)
}

// finish records how a step ended.
func (r *run) finish(s int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := r.g.steps[s]
	c := r.g.changes[st.change]
	if !st.last {
		r.adding--
	}
	if err != nil {
		why := &ChangeError{ID: st.id, Action: st.op.action(), Err: err}
		r.failed = append(r.failed, why)
		r.cause[s] = why
	} else if r.g.finishes(st) {
		r.made++
		if r.opt.Progress != nil {
			r.opt.Progress(r.made, r.total, c)
		}
	}
	r.settle(s)
}

// settle passes a step's failure, if any, on to what waits for it, and lets that proceed.
func (r *run) settle(s int) {
	if why := r.cause[s]; why != nil {
		for _, n := range r.ready.next[s] {
			if r.cause[n] == nil {
				r.cause[n] = why
			}
		}
	}
	r.ready.done(s)
	r.left--
	r.wake.Broadcast()
}

// err is everything that went wrong, in the changes and at the end.
func (r *run) err(ctx context.Context, atEnd []error) error {
	var errs *multierror.Error
	slices.SortFunc(r.failed, func(a, b *ChangeError) int { return a.ID.Compare(b.ID) })
	for _, f := range r.failed {
		slices.SortFunc(f.Skipped, resource.ID.Compare)
		errs = multierror.Append(errs, f)
	}
	errs = multierror.Append(errs, atEnd...)
	if r.left > 0 {
		errs = multierror.Append(errs, fmt.Errorf("stopped before %d of %d steps: %w", r.left, len(r.g.steps), context.Cause(ctx)))
	}
	return errs.ErrorOrNil()
}

// How long verify waits for what the kernel does in its own time, and how often it looks.
const (
	settleTime  = 5 * time.Second
	settleEvery = 20 * time.Millisecond
)

// verify observes until nothing remains to be changed, or gives up with a NotConvergedError.
func verify(ctx context.Context, within time.Duration, look func(context.Context) (*resource.Plan, error)) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for {
		p, err := look(context.WithoutCancel(ctx))
		if err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		if p.Empty() {
			return nil
		}
		select {
		case <-ctx.Done():
			return &NotConvergedError{p.Changes}
		case <-tick.C:
		}
	}
}
