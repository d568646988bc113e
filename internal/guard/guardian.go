package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
)

// argGuardian is the name under which this program starts itself as the guardian; the argument is the node's run folder.
const argGuardian = "plumb-guard"

// rootFile is the guardian's open file of the root network namespace.
const rootFile = "/proc/self/fd/3"

// RunChild must be called at the start of main (and of TestMain where a test applies with a guardian). It reports true if
// this process was a guardian and is done.
func RunChild() bool {
	if len(os.Args) != 2 || os.Args[0] != argGuardian {
		return false
	}
	if err := guardian(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "plumb: the guardian of the apply:", err)
		os.Exit(1)
	}
	return true
}

// opened is told of the guardian's host: tests count its writes.
var opened = func(*host.Host) {}

// What the guardian says to the apply, and what that asks for.
const (
	sayReady     = "ready"     // the way back is in memory
	sayWaiting   = "waiting"   // for a confirmation
	sayConfirmed = "confirmed" //
	sayReverting = "reverting" // let go of the lock
	sayReverted  = "reverted"  // all is as before
	sayFailed    = "failed"    // it isn't

	askWait   = "wait"   // everything is verified
	askRevert = "revert" // take it back, and why
)

// message is one line between the guardian and the apply.
type message struct {
	Say      string        `json:"say"`
	Why      string        `json:"why,omitempty"`
	Deadline time.Duration `json:"deadline,omitzero"` // since boot
}

// process is the guardian at work.
type process struct {
	h        *host.Host
	pending  *Pending
	before   resource.State
	self     Process
	deadline time.Duration // since boot
	out      *json.Encoder
	asked    chan message // by the apply; closed when that has ended
}

// guardian runs until the apply is confirmed or taken back. The end of the session that it comes from doesn't end it, and
// who wants to end it kindly has the apply taken back.
func guardian(runDir string) error {
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGPIPE, syscall.SIGTSTP)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	g, err := newProcess(runDir)
	if err != nil {
		return err
	}
	defer g.h.Close()
	go g.listen(os.Stdin)
	return g.run(ctx)
}

// newProcess reads the way back and opens the host.
func newProcess(runDir string) (*process, error) {
	g := &process{out: json.NewEncoder(os.Stdout), asked: make(chan message, 1), pending: &Pending{}}
	data, err := os.ReadFile(filepath.Join(runDir, folder, pendingFile))
	if err == nil {
		err = json.Unmarshal(data, g.pending)
	}
	if err != nil {
		return nil, fmt.Errorf("read the way back: %w", err)
	}
	g.pending.Host.RootNS = rootFile
	if g.h, err = host.Open(g.pending.Host); err != nil {
		return nil, err
	}
	opened(g.h)
	if g.before, err = before(g.h); err != nil {
		return nil, err
	}
	if g.self, err = self(); err != nil {
		return nil, err
	}
	g.deadline = boottime() + g.pending.Within
	return g, write(g.h, string(Applying), g.state(""))
}

// before reads the state to come back to.
func before(h *host.Host) (resource.State, error) {
	data, err := os.ReadFile(path(h, beforeFile))
	if err != nil {
		return nil, fmt.Errorf("read the way back: %w", err)
	}
	return reconciler.Recorded(data)
}

func (g *process) state(why string) State {
	return State{Guardian: g.self, Deadline: g.deadline, Why: why}
}

// listen passes on what the apply asks for, until that ends.
func (g *process) listen(r io.Reader) {
	defer close(g.asked)
	for words := json.NewDecoder(r); ; {
		var m message
		if words.Decode(&m) != nil {
			return
		}
		g.asked <- m
	}
}

func (g *process) say(say, why string) { _ = g.out.Encode(message{say, why, g.deadline}) } // to nobody, if the apply is gone

// run guards.
func (g *process) run(ctx context.Context) error {
	g.say(sayReady, "")
	if why := g.applying(ctx); why != "" {
		return g.revert(Applying, why)
	}
	g.deadline = boottime() + g.pending.Within
	if err := move(g.h, Applying, Waiting, g.state("")); err != nil {
		return errors.Join(err, g.revert(Applying, err.Error()))
	}
	g.say(sayWaiting, "")
	return g.wait(ctx)
}

// lookEvery is how often the guardian looks at the clock and for a confirmation.
const lookEvery = 50 * time.Millisecond

// momentary is how long changes may cut the way to the operator while they are being made: what is made anew is gone for a
// moment. The checks are about what comes of the changes, and are made afterwards.
var momentary = 10 * time.Second

// applying waits until everything is verified, or returns why to take the apply back.
func (g *process) applying(ctx context.Context) (why string) {
	lost, stop := g.watch(ctx, nil, momentary)
	defer stop()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return toldToEnd
		case why := <-lost:
			return why
		case m, ok := <-g.asked:
			switch {
			case !ok:
				return "the apply ended before it was done"
			case m.Say != askWait:
				return m.Why
			}
			return ""
		case <-tick.C:
			if boottime() > g.deadline {
				return fmt.Sprintf("the changes took longer than %s", g.pending.Within)
			}
		}
	}
}

const toldToEnd = "the guardian was told to end"

// watch looks at what must be there until it is stopped; see the function watch.
func (g *process) watch(ctx context.Context, all []compiler.Check, atLeast time.Duration) (lost <-chan string, stop func()) {
	ctx, stop = context.WithCancel(ctx)
	found := make(chan string, 1)
	go func() {
		if why := watch(ctx, g.h.Options, all, g.pending.Lifelines, atLeast); why != "" {
			found <- why
		}
	}()
	return found, stop
}

// wait waits for a confirmation. The apply isn't needed any more, but may ask for the end.
func (g *process) wait(ctx context.Context) error {
	lost, stop := g.watch(ctx, g.pending.Checks, 0)
	defer stop()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	asked := g.asked
	for {
		select {
		case <-ctx.Done():
			return g.revert(Waiting, toldToEnd)
		case why := <-lost:
			return g.revert(Waiting, why)
		case m, ok := <-asked:
			if ok {
				return g.revert(Waiting, m.Why)
			}
			asked = nil
		case <-tick.C:
			if _, err := os.Stat(path(g.h, string(Waiting))); errors.Is(err, os.ErrNotExist) {
				g.confirmed()
				return nil
			}
			if boottime() > g.deadline {
				return g.revert(Waiting, fmt.Sprintf("nobody confirmed within %s", g.pending.Within))
			}
		}
	}
}

// confirmed waits until whoever confirmed is done; should that be killed, the next run goes on.
func (g *process) confirmed() {
	timer, tick := time.NewTimer(10*time.Second), time.NewTicker(lookEvery)
	defer timer.Stop()
	defer tick.Stop()
	for {
		if _, err := os.Stat(path(g.h, string(Confirmed))); errors.Is(err, os.ErrNotExist) {
			break // the folder may be there again, for another apply
		}
		select {
		case <-timer.C:
			g.say(sayConfirmed, "what was kept for the way back is still there: the next apply removes it")
			return
		case <-tick.C:
		}
	}
	g.say(sayConfirmed, "")
}

// revert takes the apply back, unless somebody confirmed just now.
func (g *process) revert(from Phase, why string) error {
	why = strings.TrimSpace(why)
	g.deadline = boottime() // whoever finds it stuck a while later ends it
	switch err := move(g.h, from, Reverting, g.state(why)); {
	case errors.Is(err, errLate) && from == Waiting:
		if s, _ := look(g.h); s == nil || s.Phase == Confirmed {
			g.confirmed()
			return nil
		}
		return err // the apply thought that there is no guardian any more
	case err != nil:
		fmt.Fprintln(os.Stderr, "plumb: the guardian of the apply:", err) // going back matters more
	}
	g.say(sayReverting, why)
	unlock, err := g.lock()
	if err != nil {
		g.say(sayFailed, err.Error())
		return err
	}
	defer unlock()
	// Where the apply was killed before the guardian had begun, another run may have taken it back meanwhile, and applied
	// something since.
	if p, s, err := Look(g.h); err == nil && (p == nil || s.Guardian != g.self) {
		return errors.New("another run of plumb has dealt with the apply")
	}
	if err := takeBack(context.Background(), g.h, g.pending, g.before, why); err != nil {
		g.say(sayFailed, err.Error())
		return fmt.Errorf("%s; take the apply back: %w", why, err)
	}
	g.say(sayReverted, why)
	return nil
}

// patience is how long an apply has to end when it is taken back; then it is killed.
var patience = 5 * time.Second

// lock waits for the node's lock. The apply that holds it is told to let go, and made to if it doesn't.
func (g *process) lock() (unlock func(), err error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); ; <-tick.C {
		unlock, err := reconciler.Lock(g.h)
		var locked *reconciler.LockedError
		if !errors.As(err, &locked) {
			return unlock, err
		}
		if time.Since(began) > patience && (locked.PID == 0 || locked.PID == g.pending.Apply.PID) {
			if err := g.pending.Apply.kill(); err != nil {
				return nil, fmt.Errorf("kill the apply, process %d: %w", g.pending.Apply.PID, err)
			}
		}
	}
}
