package reconciler

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/go-multierror"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Observed is what one look at a host found.
type Observed struct {
	// Owned are the objects that carry plumb's mark.
	Owned resource.State
	// Foreign are somebody else's objects that desired ones could meet, in the order of their IDs.
	Foreign []resource.Resource
	// Waiting are the pods whose adopted namespace isn't there, by name, with its path.
	Waiting map[string]string
}

// observe looks at every kind, all at once.
func (t table) observe(ctx context.Context, h *host.Host, desired resource.State) (*Observed, error) {
	if err := t.check(desired); err != nil {
		return nil, err
	}
	wanted := map[resource.Kind][]resource.Resource{}
	for id, r := range desired {
		wanted[id.Kind] = append(wanted[id.Kind], r)
	}
	o := &Observed{Owned: make(resource.State, len(desired)), Waiting: map[string]string{}}
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		errs *multierror.Error
	)
	for name, k := range t {
		wg.Go(func() {
			owned, foreign, err := k.observe(ctx, h, wanted[name])
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				err = o.Owned.Add(owned...)
			}
			if err != nil {
				errs = multierror.Append(errs, fmt.Errorf("observe %s: %w", name, err))
			}
			o.Foreign = append(o.Foreign, foreign...)
		})
	}
	wg.Wait()
	slices.SortStableFunc(o.Foreign, func(a, b resource.Resource) int { return a.ID().Compare(b.ID()) })
	relate(o.Owned)
	if errs != nil {
		slices.SortFunc(errs.Errors, byText)
	}
	return o, errs.ErrorOrNil()
}

// relate finds the link that each observed object sits on, where its kind couldn't.
func relate(s resource.State) {
	links := map[resource.Device]resource.ID{}
	for id, r := range s {
		if m, ok := r.(resource.Maker); ok {
			for _, d := range m.Devices() {
				links[d] = id
			}
		}
	}
	for id, r := range s {
		if sit, ok := r.(resource.Sitter); ok {
			if link, ok := links[sit.Device()]; ok {
				s[id] = sit.WithLink(link)
			}
		}
	}
}
