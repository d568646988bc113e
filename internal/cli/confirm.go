package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/internal/checks"
	"plumb.internal/plumb/internal/guard"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
)

// lock makes this process the only one that works on the node, and deals with an apply that was cut off while it could be
// taken back.
func (s *session) lock(ctx context.Context) error {
	unlock, err := lockNode(ctx, s.host)
	if err != nil {
		return err
	}
	s.unlock = sync.OnceFunc(unlock)
	said, err := guard.Resolve(ctx, s.host)
	if said != "" {
		fmt.Fprintln(s.o.Err, "plumb:", said)
	}
	if err != nil {
		s.unlock()
		var pending *guard.PendingError
		if errors.As(err, &pending) {
			err = &Exit{ExitRefused, err}
		}
	}
	return err
}

// applyGuarded is an apply that is taken back unless it is confirmed in time.
func (s *session) applyGuarded(ctx context.Context, opt ApplyOptions, saved *reconciler.SavedPlan, p *resource.Plan, observed *reconciler.Observed) error {
	o := s.o
	if p.Empty() { // nothing can go wrong
		_, err := s.carryOut(ctx, opt, saved, p, observed)
		if err != nil {
			return o.failed(p, s.host.Writes(), err)
		}
		return o.done(p, s.host.Writes(), 0, nil, nil)
	}
	if err := s.permit(opt, saved, p, observed); err != nil {
		return o.failed(p, s.host.Writes(), err)
	}
	must, err := s.prepare(ctx, opt, saved != nil, p, observed)
	if err != nil {
		return o.failed(p, s.host.Writes(), err)
	}
	began := time.Now()
	g, until, err := s.guard(ctx, opt, p, must)
	if err != nil {
		return o.failed(p, s.host.Writes(), err)
	}
	results, err := s.executeGuarded(until, opt, p, must)
	took := time.Since(began)
	o.warn(s.host.Warnings())
	var deadline time.Time
	if err == nil {
		deadline, err = g.Verified()
	}
	why := ""
	if err != nil {
		why = err.Error()
	} else if !o.JSON() {
		if err := o.done(p, s.host.Writes(), took, results, must); err != nil {
			why = err.Error()
		}
		fmt.Fprintf(o.Out, "plumb confirm keeps it; else it is taken back at %s\n", deadline.Local().Format(time.TimeOnly))
	}
	s.unlock()
	outcome, failed := g.Wait(ctx, why)
	return o.outcome(applied{FormatVersion: "1", Plan: p, Verified: err == nil, Writes: s.host.Writes(), Checks: checkRows(results)}, outcome, failed)
}

// guard starts the guardian of an apply.
func (s *session) guard(ctx context.Context, opt ApplyOptions, p *resource.Plan, must map[string]bool) (*guard.Guard, context.Context, error) {
	lines, err := guard.Lifelines(ctx, s.host)
	if err != nil {
		return nil, nil, fmt.Errorf("look for what must stay reachable: %w", err)
	}
	r, err := s.revision(p.Summary())
	if err != nil {
		return nil, nil, err
	}
	stateDir, err := filepath.Abs(s.o.StateDir)
	if err != nil {
		return nil, nil, err
	}
	pending := &guard.Pending{Within: opt.Confirm, Kept: reconciler.Kept(p), Revision: r, StateDir: stateDir, Lifelines: lines}
	for _, c := range s.compiled.Checks {
		if must[c.Name] {
			pending.Checks = append(pending.Checks, c)
		}
	}
	if len(lines) == 0 && len(pending.Checks) == 0 {
		s.o.warn([]string{"nothing is known that must stay reachable (no SSH session or default gateway that answers, no check that holds): only the time counts"})
	}
	return guard.Start(ctx, s.host, pending)
}

// executeGuarded applies so that it can be taken back, verifies, and makes the checks.
func (s *session) executeGuarded(ctx context.Context, opt ApplyOptions, p *resource.Plan, must map[string]bool) ([]checks.Result, error) {
	err := s.run(ctx, opt, p, reconciler.Apply)
	if err == nil {
		err = reconciler.VerifyKept(ctx, s.host, s.compiled.State)
	}
	if err != nil {
		return nil, err
	}
	return s.checkAfter(ctx, must)
}

// outcome says how an apply ended that could be taken back.
func (o *Options) outcome(a applied, outcome guard.Outcome, failed error) error {
	switch {
	case failed != nil:
		failed = fmt.Errorf("%w\nthe next plumb apply takes it back first", failed)
	case outcome.Confirmed:
		a.Outcome, a.Why = "confirmed", outcome.Why
		if outcome.Why != "" {
			o.warn([]string{outcome.Why})
		}
		if !o.JSON() {
			_, failed = fmt.Fprintln(o.Out, "confirmed")
		}
	default:
		a.Outcome, a.Why = "reverted", outcome.Why
		failed = &Exit{ExitReverted, fmt.Errorf("taken back, and verified to be as before: %s", outcome.Why)}
	}
	if !o.JSON() {
		return failed
	}
	return errors.Join(failed, o.writeJSON(a))
}

// Confirm keeps the apply that waits for it.
func (o *Options) Confirm(ctx context.Context) error {
	node, err := o.nodeName(ctx)
	if err != nil {
		return err
	}
	if c := api.Dial(filepath.Join(o.RunDir, node)); c != nil {
		if _, err := c.Post(ctx, "confirm", nil); err != nil {
			return err
		}
		return o.confirmed(node)
	}
	if err := needRoot("confirm"); err != nil {
		return err
	}
	h, err := o.openHost(node)
	if err != nil {
		return err
	}
	s := &session{o: o, node: node, host: h}
	defer s.close()
	if err := s.here(); err != nil {
		return err
	}
	if err := guard.Confirm(ctx, h); err != nil {
		return err
	}
	o.warn(h.Warnings())
	return o.confirmed(node)
}

func (o *Options) confirmed(node string) error {
	if o.JSON() {
		return o.writeJSON(struct {
			FormatVersion string `json:"format_version"`
			Node          string `json:"node"`
			Confirmed     bool   `json:"confirmed"`
		}{"1", node, true})
	}
	_, err := fmt.Fprintln(o.Out, "confirmed: this is the last good state now")
	return err
}
