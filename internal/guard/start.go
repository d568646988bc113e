package guard

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"plumb.internal/plumb/internal/history"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler"
)

// Guard is the guardian as the apply sees it.
type Guard struct {
	h       *host.Host
	pending *Pending
	state   []byte // to come back to
	cmd     *exec.Cmd
	ask     io.WriteCloser
	heard   chan message  // closed when the guardian has ended
	asked   chan struct{} // to take back; closed then

	until   context.Context // the changes may go on
	cancel  context.CancelCauseFunc
	waiting chan message
	ended   chan struct{} // the guardian
	last    message       // of the guardian's words on the outcome; set before ended is closed
}

// Outcome is how an apply ended that could be taken back.
type Outcome struct {
	Confirmed bool
	// Why it was taken back, or what is left to do after a confirmation; "" for nothing to say.
	Why string
}

// readyWithin is how long the guardian may take to begin.
const readyWithin = 30 * time.Second

// Start writes down the way back and starts the guardian. When it returns, the guardian has everything that it needs; the
// context ends when the changes must stop. The caller has the lock, and has changed nothing yet. Options of p that say what
// host this is are filled in.
func Start(ctx context.Context, h *host.Host, p *Pending) (*Guard, context.Context, error) {
	g := &Guard{h: h, pending: p, heard: make(chan message, 8), waiting: make(chan message, 1), ended: make(chan struct{}),
		asked: make(chan struct{})}
	if err := g.prepare(ctx); err != nil {
		return nil, nil, errors.Join(err, remove(h))
	}
	if err := g.start(); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("start the guardian: %w", err), remove(h))
	}
	timer := time.NewTimer(readyWithin)
	defer timer.Stop()
	var err error
	select {
	case m, ok := <-g.heard:
		if ok && m.Say == sayReady {
			g.until, g.cancel = context.WithCancelCause(ctx)
			go g.follow(m.Deadline)
			return g, g.until, nil
		}
		err = errors.New("it ended at once")
	case <-timer.C:
		err = fmt.Errorf("it isn't ready after %s", readyWithin)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	// Nothing was changed yet, so there is nothing to take back.
	_ = g.cmd.Process.Kill()
	for range g.heard {
	}
	return nil, nil, errors.Join(fmt.Errorf("start the guardian: %w", err), remove(h))
}

// prepare writes down what the guardian, or the next run, needs to know.
func (g *Guard) prepare(ctx context.Context) error {
	var err error
	if g.pending.BootID, err = bootID(); err != nil {
		return err
	}
	if g.pending.Apply, err = self(); err != nil {
		return err
	}
	g.pending.Host = g.h.Options
	o, err := reconciler.Observe(ctx, g.h, nil)
	if err != nil {
		return fmt.Errorf("look at the state from before: %w", err)
	}
	if g.state, err = reconciler.Record(o); err != nil {
		return err
	}
	if err := writeBytes(g.h, ballastFile, make([]byte, ballast)); err != nil {
		return err
	}
	if err := writeBytes(g.h, beforeFile, g.state); err != nil {
		return err
	}
	// The phase before pending.json: without that there is nothing to take back.
	if err := write(g.h, string(Applying), State{Deadline: boottime() + g.pending.Within}); err != nil {
		return err
	}
	return write(g.h, pendingFile, g.pending)
}

// start starts this program again, in a session of its own.
func (g *Guard) start() error {
	ns, err := g.h.NS("")
	if err != nil {
		return err
	}
	fd, err := ns.FD()
	if err != nil {
		return err
	}
	root := os.NewFile(uintptr(fd), "root network namespace")
	defer root.Close()
	// Pipes of our own: those of exec.Cmd are closed by Wait, before the last word is read.
	askR, askW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer askR.Close()
	sayR, sayW, err := os.Pipe()
	if err != nil {
		askW.Close()
		return err
	}
	defer sayW.Close()
	g.cmd = &exec.Cmd{Path: "/proc/self/exe", Args: []string{argGuardian, g.h.RunDir}, Env: os.Environ(),
		Stdin: askR, Stdout: sayW, Stderr: os.Stderr, ExtraFiles: []*os.File{root}, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	g.h.Wrote("start the guardian")
	if err := g.cmd.Start(); err != nil {
		askW.Close()
		sayR.Close()
		return err
	}
	g.ask = askW
	go func() {
		defer close(g.heard)
		for words := json.NewDecoder(sayR); ; {
			var m message
			if words.Decode(&m) != nil {
				break
			}
			g.heard <- m
		}
		sayR.Close()
		_ = g.cmd.Wait()
	}()
	return nil
}

// errDied says that there is no guardian any more.
var errDied = errors.New("the guardian of this apply died")

// follow hears the guardian until the outcome, and ends the changes when there is one. A guardian that isn't heard of when it
// should have acted is stopped, or stuck: it is killed, and then the apply acts.
func (g *Guard) follow(deadline time.Duration) {
	defer close(g.ended)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for asked, limit := g.asked, overdue; ; {
		select {
		case m, ok := <-g.heard:
			if !ok {
				g.cancel(errDied)
				return
			}
			deadline = m.Deadline
			switch m.Say {
			case sayReverting:
				limit = toRevert
				g.cancel(fmt.Errorf("taken back: %s", m.Why))
			case sayConfirmed, sayReverted, sayFailed:
				g.last = m
			case sayWaiting:
				g.waiting <- m
			}
		case <-asked:
			asked, deadline = nil, min(deadline, boottime())
		case <-tick.C:
			if boottime() > deadline+limit {
				_ = g.cmd.Process.Kill()
			}
		}
	}
}

// Verified tells the guardian that everything is as it should be, and returns until when it has to be confirmed. The error
// says why it is taken back instead: then too the caller goes on to Wait.
func (g *Guard) Verified() (deadline time.Time, err error) {
	if err := g.tell(askWait, ""); err != nil {
		return time.Time{}, err
	}
	select {
	case m := <-g.waiting:
		return wall(m.Deadline), nil
	case <-g.until.Done():
		return time.Time{}, context.Cause(g.until)
	}
}

func (g *Guard) tell(say, why string) error {
	if err := json.NewEncoder(g.ask).Encode(message{Say: say, Why: why}); err != nil {
		return errDied
	}
	return nil
}

// Wait waits for the outcome. With why the apply is taken back for that reason, and so it is when ctx ends. The caller has
// let go of the lock. An error says that taking back failed; the next run tries again.
func (g *Guard) Wait(ctx context.Context, why string) (Outcome, error) {
	defer g.ask.Close()
	if why == "" {
		select {
		case <-g.ended:
		case <-ctx.Done():
			why = "it was interrupted"
		}
	}
	if why != "" {
		_ = g.tell(askRevert, why) // if it is dead that shows below
		close(g.asked)
		<-g.ended
	}
	switch g.last.Say {
	case sayConfirmed:
		return Outcome{Confirmed: true, Why: g.last.Why}, nil
	case sayReverted:
		return Outcome{Why: g.last.Why}, nil
	}
	// It died, or failed and said so on its own.
	if why == "" {
		why = errDied.Error()
	}
	return g.alone(why)
}

// alone does what the guardian would have done.
func (g *Guard) alone(why string) (Outcome, error) {
	unlock, err := lock(context.Background(), g.h)
	if err != nil {
		return Outcome{}, err
	}
	defer unlock()
	p, s, err := Look(g.h)
	switch {
	case err != nil:
		return Outcome{}, err
	case p == nil || p.Apply != g.pending.Apply:
		return g.over(p != nil, why)
	case s.Phase == Confirmed:
		return Outcome{Confirmed: true}, finish(context.Background(), g.h, p)
	}
	before, err := reconciler.Recorded(g.state)
	if err != nil {
		return Outcome{}, err
	}
	if err := revert(context.Background(), g.h, p, s, before, why); err != nil {
		return Outcome{}, fmt.Errorf("%s; take the apply back: %w", why, err)
	}
	return Outcome{Why: why}, nil
}

// over finds out how an apply ended that has nothing left to go back by: the guardian died when it was done, or another run
// was faster, and may have another apply pending. The caller has the lock.
func (g *Guard) over(another bool, why string) (Outcome, error) {
	s, err := look(g.h)
	if err != nil {
		return Outcome{}, err
	}
	back, err := LastReverted(g.h)
	if err != nil {
		return Outcome{}, err
	}
	var last *history.Revision
	if g.pending.Revision != nil {
		last, _ = history.Last(g.pending.StateDir, g.h.Node)
	}
	var outcome Outcome
	switch {
	case !another && s != nil && s.Phase == Confirmed:
		outcome.Confirmed = true
	case back != nil && back.Apply == g.pending.Apply:
		outcome.Why = back.Why
	case last != nil && last.Digest == g.pending.Revision.Digest:
		outcome.Confirmed = true
	default:
		return outcome, errors.New(why + ", and what came of this apply isn't known: see plumb history and plumb status")
	}
	if another {
		return outcome, nil
	}
	return outcome, remove(g.h)
}
