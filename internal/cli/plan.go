package cli

import (
	"context"
	"errors"
	"fmt"

	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
)

// PlanOptions are the flags of `plumb plan`.
type PlanOptions struct {
	Features string // a file: plan for that machine, from nothing
	Out      string // a file to save the plan in
	Detailed bool   // exit code 2 where there are changes
	Destroy  bool
}

// Plan prints what an apply would do.
func (o *Options) Plan(ctx context.Context, opt PlanOptions) error {
	if opt.Features != "" && (opt.Out != "" || opt.Destroy) {
		return errors.New("a plan from a features file is for looking at: --out and --destroy need the machine itself")
	}
	p, err := o.plan(ctx, opt)
	if err != nil {
		return err
	}
	if err := o.writePlan(p); err != nil {
		return err
	}
	if opt.Out != "" && !o.JSON() {
		fmt.Fprintf(o.Out, "saved: plumb apply %s\n", opt.Out)
	}
	switch {
	case len(p.Conflicts) > 0:
		return &Exit{Code: ExitConflict}
	case opt.Detailed && !p.Empty():
		return &Exit{Code: ExitChanges}
	}
	return nil
}

func (o *Options) plan(ctx context.Context, opt PlanOptions) (*resource.Plan, error) {
	var (
		s        *session
		p        *resource.Plan
		observed *reconciler.Observed
		err      error
	)
	if opt.Destroy {
		if s, err = o.beginDestroy(ctx, "plan"); err != nil {
			return nil, err
		}
		defer s.close()
		p, observed, err = s.destroyPlan(ctx)
	} else {
		if s, err = o.begin(ctx, "plan", opt.Features); err != nil {
			return nil, err
		}
		defer s.close()
		p, observed, err = s.plan(ctx)
	}
	if err != nil || opt.Out == "" {
		return p, err
	}
	basis, err := s.basis(observed)
	if err != nil {
		return nil, err
	}
	return p, reconciler.SavePlan(opt.Out, basis, p)
}
