package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/internal/health"
	"plumb.internal/plumb/internal/history"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/watch"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/schema"
)

// Options say which node a daemon looks after, and how.
type Options struct {
	Node     string
	Dir      string   // the repository
	Tags     []string // CUE tags
	StateDir string   // the folder of all nodes' history
	Host     *host.Host
	Features func(context.Context) (*features.Set, error)
	Interval time.Duration      // between two full looks; they find what has no event
	Allowed  reconciler.Allowed // for every change of the files
	Log      *slog.Logger
	Version  string
	Notify   func(state string) // told of readiness and state, as sd_notify(3) has it; may be nil
	// Surroundings says what else on the machine is in the way of what is in force; it may be nil.
	Surroundings func(context.Context) []string
	// Reach makes sure, after each cycle that leaves something in force, that commands reach the daemon: its socket goes with the
	// run folder, which `plumb destroy` removes. An error ends the daemon. It may be nil.
	Reach    func() error
	Watchdog time.Duration // Notify is told at least this often that the daemon lives; 0 for never
}

// Daemon keeps one node true.
type Daemon struct {
	Options
	metrics *metrics
	ran     controllers // guarded by mu
	files   *watch.Files
	kernel  *watch.Kernel
	prober  *health.Prober
	asked   chan request

	// What follows is only touched by the goroutine that runs cycles.
	inForce, candidate *version
	literals           compiler.Literals
	read               *watch.Sum        // the files as they were evaluated last
	saying             string            // digest of the configuration that they make; "" if they can't be used
	held               bool              // the files are left alone until they change: somebody applied something else
	touched            bool              // the files may have changed
	revision           int               // the newest one that is known
	last               *history.Revision // the one that was read or written last, without its configuration
	backoff            backoff
	whole              time.Time         // when the last full look was; zero where one is due
	failed             bool              // the last cycle did
	unreachable        error             // why commands can't reach the daemon
	errors             map[string]string // of the daemon's own, by what failed
	idle               int               // events in a row that led to nothing
	deaf               time.Time         // until then, events of the kernel are only collected
	part               resource.State    // what a small look compares; nil for a whole one
	places             []string          // the namespaces of a small look; nil for all
	conflicts          []resource.Conflict
	verdicts           health.Verdicts      // of the probes, for this cycle
	told               health.Verdicts      // those that were logged, or that the kernel had at the start
	expected           map[resource.ID]bool // what they, or the files, changed since the node was last found as it should be
	unanswered         []string             // frontends that none of their backends answers for
	changed            bool                 // by the last cycle: the node
	waits              string               // why nothing was done in the last cycle
	litter             bool                 // much was allocated since memory was given back

	mu        sync.Mutex
	status    api.Status
	suspended *api.Suspension
	probing   *health.Prober     // once it is there
	compiled  *compiler.Compiled // in force, with the nodes of its configuration
	nodes     map[string]schema.Node
}

// version is one configuration of the node.
type version struct {
	config   *schema.Config // nil once it is kept as a revision
	digest   string
	nodes    map[string]schema.Node
	compiled *compiler.Compiled
	part     resource.State // of its state, that a small look compares
	machine  string         // digest of what the machine can do, that it was compiled for
	after    int            // the newest revision when the files were read
	from     string         // "files" or "revision N"
	revision int            // that keeps it; 0 for none
	since    time.Time
	summary  resource.Summary // of the changes that it took, or would take
	verified bool             // the node was found to be so at least once
	refused  error            // why it isn't in force
}

// request is a wish that came by the API.
type request struct {
	suspend *api.Suspension
	resume  bool
	done    chan error
}

// New prepares a daemon; nothing is watched or done yet.
func New(o Options) *Daemon {
	d := &Daemon{Options: o, metrics: newMetrics(), ran: newControllers(), asked: make(chan request), backoff: backoff{}, errors: map[string]string{}, expected: map[resource.ID]bool{}, touched: true}
	d.status = api.Status{State: api.Starting, Started: time.Now().UTC()}
	if d.Notify == nil {
		d.Notify = func(string) {}
	}
	return d
}

// open begins to watch everything.
func (d *Daemon) open(ctx context.Context) (err error) {
	if d.kernel, err = watch.NewKernel(d.Host); err != nil {
		return err
	}
	if d.files, err = watch.NewFiles(ctx, d.Dir); err != nil {
		return err
	}
	root, err := d.Host.NS("")
	if err != nil {
		return err
	}
	d.prober = health.New(root)
	d.metrics.registry.MustRegister(backends{d.prober})
	return d.recallSuspension()
}

func (d *Daemon) close() {
	if d.kernel != nil {
		d.kernel.Close()
	}
	if d.files != nil {
		d.files.Close()
	}
	if d.prober != nil {
		d.prober.Close()
	}
}

// calmTime is how long nothing has to happen for the memory that the last cycles took to go back to the machine.
const calmTime = 2 * time.Second

// How soon what couldn't be done is tried again.
const (
	retryLock  = 50 * time.Millisecond
	retryError = time.Second
)

// Run looks after the node until ctx ends. Then everything stays as it is: the data path needs no daemon.
func (d *Daemon) Run(ctx context.Context) error {
	defer d.close()
	if err := d.open(ctx); err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	if err := d.start(ctx); err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	next := d.next(d.cycle(ctx))
	d.Notify("READY=1")
	d.warn(ctx)
	d.Log.Info("plumb runs", "node", d.Node, "dir", d.Dir, "interval", d.Interval)
	timer := time.NewTimer(0)
	defer timer.Stop()
	calm := time.NewTimer(calmTime)
	defer calm.Stop()
	var alive <-chan time.Time
	if d.Watchdog > 0 {
		t := time.NewTicker(d.Watchdog / 3)
		defer t.Stop()
		alive = t.C
	}
	for {
		events, wake := d.kernel.C, next
		if time.Now().Before(d.deaf) {
			events, wake = nil, earlier(next, d.deaf)
		}
		timer.Reset(time.Until(wake))
		var done chan error
		select {
		case <-ctx.Done():
			d.Notify("STOPPING=1")
			d.Log.Info("plumb stops; the data path stays", "node", d.Node)
			return nil
		case <-alive:
			d.Notify("WATCHDOG=1")
			continue
		case <-calm.C:
			d.litter = false
			go debug.FreeOSMemory()
			continue
		case <-d.files.C:
			d.touched = true
		case <-events:
		case <-d.prober.Changed():
		case <-timer.C:
			if time.Now().Before(next) {
				continue // to listen again
			}
		case r := <-d.asked:
			if done = r.done; r.suspend != nil || r.resume {
				if err := d.suspend(r.suspend); err != nil {
					done <- err
					continue
				}
			}
		}
		if next = d.next(d.cycle(ctx)); d.litter {
			calm.Reset(calmTime)
		}
		if done != nil {
			done <- nil
		}
		if d.unreachable != nil {
			return d.unreachable
		}
	}
}

// warn tells once what else on the machine will fight it.
func (d *Daemon) warn(ctx context.Context) {
	if d.Surroundings == nil {
		return
	}
	for _, w := range d.Surroundings(ctx) {
		d.Log.Warn(w)
	}
}

// next is when the next cycle is, at the latest; retry is what the last one asked for.
func (d *Daemon) next(retry time.Duration) time.Time {
	now := time.Now()
	switch {
	case retry > 0:
		return now.Add(retry)
	case d.isSuspended():
		return now.Add(d.Interval)
	}
	next := d.whole.Add(d.Interval)
	if t := d.backoff.next(); !t.IsZero() {
		if !t.After(now) {
			t = now.Add(backoffFirst) // something else has to be mended first
		}
		next = earlier(next, t)
	}
	return next
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// ask hands a wish to the goroutine that runs cycles and waits until one is over.
func (d *Daemon) ask(ctx context.Context, r request) error {
	r.done = make(chan error, 1)
	select {
	case d.asked <- r:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
