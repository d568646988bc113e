package guard

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"plumb.internal/plumb/internal/history"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/netns"
)

// ErrNothing says that no apply waits for a confirmation.
var ErrNothing = errors.New("nothing waits to be confirmed")

// PendingError says that an apply may still be taken back, and its guardian watches over it.
type PendingError struct{ State State }

func (e *PendingError) Error() string {
	if e.State.Phase == Reverting {
		return fmt.Sprintf("an apply is being taken back at this moment (%s): wait for process %d", e.State.Why, e.State.Guardian.PID)
	}
	return fmt.Sprintf("an apply waits to be confirmed until %s: plumb confirm keeps it, else wait until it is taken back",
		wall(e.State.Deadline).Local().Format(time.TimeOnly))
}

// Confirm keeps an apply that waits for it: what was kept for the way back goes, and its configuration is the last good one.
// The error is ErrNothing where none waits. It takes the lock, and needs no files.
func Confirm(ctx context.Context, h *host.Host) error {
	p, s, err := Look(h)
	switch {
	case err != nil:
		return err
	case p == nil || s.Phase == Reverting:
		return ErrNothing
	case s.Phase == Applying && s.Guardian.Alive():
		return fmt.Errorf("%w yet: the apply isn't done", ErrNothing)
	case s.Phase == Applying:
		return fmt.Errorf("%w: the apply was cut off, and the next one takes it back first", ErrNothing)
	case s.Phase == Waiting && boottime() > s.Deadline && s.guarded():
		return fmt.Errorf("%w: the time is over, and it is being taken back", ErrNothing)
	case s.Phase == Waiting && boottime() > s.Deadline:
		return fmt.Errorf("%w: its time is over, and the next apply takes it back first", ErrNothing)
	}
	if s.Phase == Waiting {
		switch err := move(h, Waiting, Confirmed, *s); {
		case errors.Is(err, errLate):
			return ErrNothing
		case err != nil:
			return err
		}
	}
	unlock, err := lock(ctx, h)
	if err != nil {
		return err
	}
	defer unlock()
	// Whoever had the lock before may have dealt with it, and applied something since.
	now, s, err := Look(h)
	if err != nil || now == nil || s.Phase != Confirmed || now.Apply != p.Apply {
		return err
	}
	return finish(ctx, h, now)
}

// lock waits until this process is the only one that works on the node.
func lock(ctx context.Context, h *host.Host) (unlock func(), err error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		unlock, err := reconciler.Lock(h)
		var locked *reconciler.LockedError
		if !errors.As(err, &locked) {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-tick.C:
		}
	}
}

// finish ends a confirmed apply; the caller has the lock.
func finish(ctx context.Context, h *host.Host, p *Pending) error {
	if err := reconciler.Drop(ctx, h, p.Kept); err != nil {
		return fmt.Errorf("confirmed; remove what was kept for the way back: %w", err)
	}
	if p.Revision != nil {
		h.Wrote("write a revision into %s", p.StateDir)
		if err := history.Keep(p.StateDir, h.Node, p.Revision); err != nil {
			return err
		}
	}
	if err := Forget(h); err != nil {
		return err
	}
	return remove(h)
}

// Resolve deals with an apply that was cut off, before anything else is done with the node; the caller has the lock. It
// returns what a person should know, "" for nothing. The error is a *PendingError while a guardian watches over it.
//
// An apply that can't be taken back any more doesn't stand in the way for ever: what is to be applied now makes the node right
// in its own way. That is also why it doesn't stop when ctx ends: half of a way back is none.
func Resolve(ctx context.Context, h *host.Host) (said string, err error) {
	ctx = context.WithoutCancel(ctx)
	p, s, err := Look(h)
	if err != nil {
		return fmt.Sprintf("an earlier apply can't be taken back: %v", err), remove(h)
	}
	if p == nil {
		// The rest of a folder, or of an earlier boot.
		if err := netns.DropAside(h); err != nil {
			return "", err
		}
		return "", remove(h)
	}
	if s.Phase == Confirmed {
		said = "an earlier apply was confirmed, and what was kept to take it back is removed now"
		if err := finish(ctx, h, p); err != nil {
			return fmt.Sprintf("%s: %v", said, err), errors.Join(netns.DropAside(h), remove(h))
		}
		return said, nil
	}
	if s.guarded() {
		return "", &PendingError{*s}
	}
	if err := s.Guardian.kill(); err != nil { // that is stopped, or stuck
		return "", fmt.Errorf("end the guardian of an earlier apply, process %d: %w", s.Guardian.PID, err)
	}
	why := s.Why
	if why == "" {
		why = "it was cut off before it was confirmed"
	}
	state, err := before(h)
	if err == nil {
		err = revert(ctx, h, p, s, state, why)
	}
	if err != nil {
		said = fmt.Sprintf("an earlier apply can't be taken back (%s): %v", why, err)
		if err := note(h, p, why); err != nil {
			said += "; " + err.Error()
		}
		return said, errors.Join(netns.DropAside(h), remove(h))
	}
	return "an earlier apply was taken back first: " + why, nil
}

// revert takes an apply back that has no guardian; the caller has the lock.
func revert(ctx context.Context, h *host.Host, p *Pending, s *State, before resource.State, why string) error {
	if s.Phase != Reverting {
		if err := move(h, s.Phase, Reverting, State{Deadline: s.Deadline, Why: why}); err != nil {
			return err
		}
	}
	return takeBack(ctx, h, p, before, why)
}

// attempts is how often taking back is tried before it is left to the next run.
const attempts = 3

// takeBack brings the node back to the state from before and ends the phase; the caller has the lock.
func takeBack(ctx context.Context, h *host.Host, p *Pending, before resource.State, why string) error {
	h.Wrote("remove %s", path(h, ballastFile))
	if err := os.Remove(path(h, ballastFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make room for the way back: %w", err)
	}
	var err error
	for range attempts {
		if err = reconciler.Back(ctx, h, before); err == nil {
			break
		}
	}
	if err == nil {
		err = note(h, p, why)
	}
	if err != nil {
		return err
	}
	return remove(h)
}
