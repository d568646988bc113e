package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"plumb.internal/plumb/internal/checks"
	"plumb.internal/plumb/internal/history"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
)

// ApplyOptions are the flags of `plumb apply`.
type ApplyOptions struct {
	PlanFile        string
	Yes             bool
	AllowDisruption bool
	AllowDelete     bool
	Parallel        int
	Confirm         time.Duration // 0: it isn't taken back
}

// applied is what apply and destroy write as JSON.
type applied struct {
	FormatVersion string         `json:"format_version"`
	Plan          *resource.Plan `json:"plan"`
	Verified      bool           `json:"verified"`
	Writes        int            `json:"writes"` // to the kernel and to plumb's own folders
	Checks        []checkRow     `json:"checks,omitempty"`
	Outcome       string         `json:"outcome,omitempty"` // with --confirm: confirmed or reverted
	Why           string         `json:"why,omitempty"`     // it was reverted
}

// Apply makes this machine what the files say, and verifies it.
func (o *Options) Apply(ctx context.Context, opt ApplyOptions) error {
	var saved *reconciler.SavedPlan
	if opt.PlanFile != "" {
		var err error
		if saved, err = reconciler.LoadPlan(opt.PlanFile); err != nil {
			return err
		}
		if saved.Destroy {
			if opt.Confirm > 0 {
				return errors.New("the removal of everything can't be taken back: leave --confirm out")
			}
			return o.destroy(ctx, opt, saved)
		}
	}
	s, err := o.begin(ctx, "apply", "")
	if err != nil {
		return err
	}
	defer s.close()
	return s.apply(ctx, opt, saved)
}

// apply makes this machine what the session's configuration says.
func (s *session) apply(ctx context.Context, opt ApplyOptions, saved *reconciler.SavedPlan) error {
	o, began := s.o, time.Now()
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer func() { s.unlock() }()
	p, observed, err := s.plan(ctx)
	if err != nil {
		return err
	}
	if opt.Confirm > 0 {
		return s.applyGuarded(ctx, opt, saved, p, observed)
	}
	must, err := s.carryOut(ctx, opt, saved, p, observed)
	if err != nil {
		return o.failed(p, s.host.Writes(), err)
	}
	took := time.Since(began) - s.checking
	results, failed := s.checkAfter(ctx, must)
	o.warn(s.host.Warnings())
	return errors.Join(o.done(p, s.host.Writes(), took, results, must), failed)
}

// carryOut applies a plan that is fresh, unless something or somebody is against it, and verifies the outcome. It returns
// which checks must hold then, see checkBefore.
func (s *session) carryOut(ctx context.Context, opt ApplyOptions, saved *reconciler.SavedPlan, p *resource.Plan, observed *reconciler.Observed) (must map[string]bool, err error) {
	if err := s.permit(opt, saved, p, observed); err != nil {
		return nil, err
	}
	if !p.Empty() {
		if must, err = s.execute(ctx, opt, saved != nil, p, observed); err != nil {
			return nil, err
		}
	}
	r, err := s.revision(p.Summary())
	if err != nil {
		return nil, err
	}
	return must, s.keep(r)
}

// permit shows a plan and says what is against it.
func (s *session) permit(opt ApplyOptions, saved *reconciler.SavedPlan, p *resource.Plan, observed *reconciler.Observed) error {
	if err := s.review(saved, p, observed); err != nil {
		return err
	}
	return exitOf(reconciler.Refuse(p, observed, reconciler.Allowed{Disruption: opt.AllowDisruption, Delete: opt.AllowDelete}))
}

// prepare asks, and does what comes before the first change; it returns which checks must hold afterwards.
func (s *session) prepare(ctx context.Context, opt ApplyOptions, reviewed bool, p *resource.Plan, observed *reconciler.Observed) (must map[string]bool, err error) {
	if err := s.mayGoOn(ctx, opt, reviewed, p, s.plan, "Make these changes?"); err != nil {
		return nil, err
	}
	if must, err = s.checkBefore(ctx, observed); err != nil {
		return nil, err
	}
	return must, s.host.Settle()
}

// execute asks, applies and verifies; it returns which checks must hold then.
func (s *session) execute(ctx context.Context, opt ApplyOptions, reviewed bool, p *resource.Plan, observed *reconciler.Observed) (must map[string]bool, err error) {
	if must, err = s.prepare(ctx, opt, reviewed, p, observed); err != nil {
		return nil, err
	}
	if err = s.run(ctx, opt, p, reconciler.Apply); err == nil {
		err = reconciler.Verify(ctx, s.host, s.compiled.State)
	}
	return must, interrupted(ctx, err, "plumb apply")
}

// failed writes, as JSON, the plan that was not carried out to its end: it names what is in the way.
func (o *Options) failed(p *resource.Plan, writes int, err error) error {
	if !o.JSON() {
		return err
	}
	return errors.Join(err, o.writeJSON(applied{FormatVersion: "1", Plan: p, Writes: writes}))
}

// review shows people the plan, unless a saved one is no longer what would be planned now.
func (s *session) review(saved *reconciler.SavedPlan, p *resource.Plan, observed *reconciler.Observed) error {
	if saved != nil {
		basis, err := s.basis(observed)
		if err == nil {
			err = saved.Check(basis, p)
		}
		if err != nil {
			return exitOf(err)
		}
	}
	if s.o.JSON() {
		return nil
	}
	return s.o.writePlan(p)
}

// planner says what would be changed now.
type planner func(context.Context) (*resource.Plan, *reconciler.Observed, error)

// mayGoOn asks, unless somebody said yes already: a saved plan has been looked at. Meanwhile the node isn't locked, so that a
// daemon can mend it; what was shown must still be so afterwards.
func (s *session) mayGoOn(ctx context.Context, opt ApplyOptions, reviewed bool, shown *resource.Plan, again planner, question string) error {
	if opt.Yes || reviewed {
		return nil
	}
	s.unlock()
	if err := s.o.ask(ctx, question); err != nil {
		return err
	}
	if err := s.lock(ctx); err != nil {
		return err
	}
	now, _, err := again(ctx)
	if err != nil {
		return err
	}
	same, err := sameChanges(shown, now)
	if err == nil && !same {
		err = &Exit{ExitRefused, errors.New("this host changed while you were asked, and other changes would be made now: look at the plan again")}
	}
	return err
}

// sameChanges reports whether two plans do the same.
func sameChanges(a, b *resource.Plan) (bool, error) {
	x, err := json.Marshal([]any{a.Changes, a.Conflicts})
	if err != nil {
		return false, err
	}
	y, err := json.Marshal([]any{b.Changes, b.Conflicts})
	return bytes.Equal(x, y), err
}

// done says how an apply went.
func (o *Options) done(p *resource.Plan, writes int, took time.Duration, results []checks.Result, must map[string]bool) error {
	if o.JSON() {
		return o.writeJSON(applied{FormatVersion: "1", Plan: p, Verified: true, Writes: writes, Checks: checkRows(results)})
	}
	defer o.writeOutcome(results, must)
	if p.Empty() {
		if writes == 0 {
			_, err := fmt.Fprintln(o.Out, "verified; nothing was written to the kernel")
			return err
		}
		_, err := fmt.Fprintf(o.Out, "verified; %d writes\n", writes)
		return err
	}
	s := p.Summary()
	var counts []string
	for _, c := range []struct {
		n    int
		what string
	}{{s.Create, "created"}, {s.Update, "updated"}, {s.Replace, "replaced"}, {s.Delete, "deleted"}} {
		if c.n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", c.n, c.what))
		}
	}
	_, err := fmt.Fprintf(o.Out, "applied: %s in %.2f s; verified\n", strings.Join(counts, ", "), took.Seconds())
	return err
}

func (o *Options) warn(warnings []string) {
	for _, w := range warnings {
		fmt.Fprintln(o.Err, "warning:", w)
	}
}

// run carries out a plan, so that it can be taken back where that was asked for, and shows how far it is.
func (s *session) run(ctx context.Context, opt ApplyOptions, p *resource.Plan,
	carryOut func(context.Context, *host.Host, *resource.Plan, reconciler.ApplyOptions) error) error {
	show, clear := s.o.progress()
	defer clear()
	return carryOut(ctx, s.host, p, reconciler.ApplyOptions{Parallel: opt.Parallel, Progress: show, Keep: opt.Confirm > 0})
}

// interrupted adds to an error how to go on after a signal.
func interrupted(ctx context.Context, err error, again string) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	sep := " "
	if many(err) {
		sep = "\n"
	}
	return fmt.Errorf("interrupted:%s%w\n%s goes on from here", sep, err, again)
}

// Destroy removes everything that plumb has on this machine for the node, and puts back what it changed.
func (o *Options) Destroy(ctx context.Context, yes bool) error {
	return o.destroy(ctx, ApplyOptions{Yes: yes}, nil)
}

func (o *Options) destroy(ctx context.Context, opt ApplyOptions, saved *reconciler.SavedPlan) error {
	began := time.Now()
	s, err := o.beginDestroy(ctx, "destroy")
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer func() { s.unlock() }()
	p, observed, err := s.destroyPlan(ctx)
	if err != nil {
		return err
	}
	if err := s.remove(ctx, opt, saved, p, observed); err != nil {
		return o.failed(p, s.host.Writes(), err)
	}
	if err := o.removeFolders(s.host.BPFFS); err != nil {
		return err
	}
	o.warn(s.host.Warnings())
	if err := o.done(p, s.host.Writes(), time.Since(began), nil, nil); err != nil || o.JSON() {
		return err
	}
	_, err = fmt.Fprintf(o.Out, "node %s: nothing is left\n", s.node)
	return err
}

// remove carries out a plan to destroy, as carryOut does one to apply.
func (s *session) remove(ctx context.Context, opt ApplyOptions, saved *reconciler.SavedPlan, p *resource.Plan, observed *reconciler.Observed) error {
	if err := s.review(saved, p, observed); err != nil {
		return err
	}
	if len(p.Conflicts) > 0 {
		return exitOf(&reconciler.ConflictError{Conflicts: p.Conflicts})
	}
	if !p.Empty() {
		if err := s.mayGoOn(ctx, opt, saved != nil, p, s.destroyPlan, "Remove all of this?"); err != nil {
			return err
		}
	}
	// Before the lock goes with the run folder: a daemon that gets in then must know that nothing is wanted any more.
	r, err := history.New(nil, "", p.Summary())
	if err == nil {
		err = s.keep(r)
	}
	if err != nil {
		return err
	}
	return interrupted(ctx, s.run(ctx, opt, p, reconciler.Destroy), "plumb destroy")
}

// removeFolders removes what is common to the nodes of this machine once the last of them is gone.
func (o *Options) removeFolders(bpffs string) error {
	for _, dir := range []string{bpffs, filepath.Dir(bpffs)} {
		if err := removeFolder(dir); err != nil {
			return err
		}
	}
	if entries, err := os.ReadDir(o.RunDir); err == nil && len(entries) == 1 && entries[0].Name() == filepath.Base(o.featuresFile()) {
		if err := os.Remove(o.featuresFile()); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove feature cache: %w", err)
		}
	}
	return removeFolder(o.RunDir)
}
