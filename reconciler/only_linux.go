package reconciler

import (
	"context"
	"fmt"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// ObserveOnly looks at single objects and nothing else: where each was last wanted, and where it is wanted now. It fails
// for kinds that aren't a Looker. It writes nothing.
func ObserveOnly(ctx context.Context, h *host.Host, was, is resource.State) (*Observed, error) {
	h.Forget()
	o := &Observed{Owned: resource.State{}}
	for _, s := range []resource.State{was, is} {
		for id := range s {
			if _, done := o.Owned[id]; done {
				continue
			}
			k, ok := kinds[id.Kind]
			if !ok {
				return nil, fmt.Errorf("observe %s: no such kind of object", id)
			}
			r, err := k.look(ctx, h, was[id], is[id])
			if err != nil {
				return nil, fmt.Errorf("observe %s: %w", id, err)
			}
			if r != nil {
				o.Owned[id] = r
			}
		}
	}
	return o, nil
}

// ConvergeOnly makes single objects what is says; what is only in was goes. It is for a change that is known to be of these
// alone, a backend that fails, in a host that has been verified: nothing else is looked at, and so nothing else mended.
// Of what they were it takes only where to look; what is written follows from what is there. It verifies as much as it
// changes.
func ConvergeOnly(ctx context.Context, h *host.Host, was, is resource.State) error {
	look := func(ctx context.Context) (*resource.Plan, error) {
		o, err := ObserveOnly(ctx, h, was, is)
		if err != nil {
			return nil, err
		}
		return Diff(is, o)
	}
	p, err := look(ctx)
	if err != nil {
		return err
	}
	if p.Empty() {
		return nil
	}
	if err := Apply(ctx, h, p, ApplyOptions{Parallel: 1}); err != nil {
		return err
	}
	return verify(ctx, settleTime, look)
}
