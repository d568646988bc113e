package reconciler

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/go-multierror"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Observed is what one look at a host found.
type Observed struct {
	// Owned are the objects that carry plumb's mark, but those of a Matcher's kind that are exactly as desired: see All.
	Owned resource.State
	// Foreign are somebody else's objects that desired ones could meet, in the order of their IDs.
	Foreign []resource.Resource
	// Waiting are the pods whose adopted namespace isn't there, by name, with its path.
	Waiting map[string]string

	wanted  *wanted
	matched map[resource.Kind]matched
}

// All are all objects that carry plumb's mark.
func (o *Observed) All() resource.State {
	if len(o.matched) == 0 {
		return o.Owned
	}
	all := maps.Clone(o.Owned)
	for kind, m := range o.matched {
		others := make(map[int]bool, len(m.others))
		for _, i := range m.others {
			others[i] = true
		}
		for i, r := range o.wanted.of[kind] {
			if !others[i] {
				all[r.ID()] = m.as(r)
			}
		}
	}
	return all
}

// matched is resource.Matched with the type of its resources erased.
type matched struct {
	owned, foreign []resource.Resource
	others         []int
	as             func(resource.Resource) resource.Resource
}

// observe looks at every kind, all at once.
func (t table) observe(ctx context.Context, h *host.Host, desired resource.State) (*Observed, error) {
	w := sorted(desired)
	if err := t.check(w); err != nil {
		return nil, err
	}
	return t.observeSorted(ctx, h, w)
}

func (t table) observeSorted(ctx context.Context, h *host.Host, w *wanted) (*Observed, error) {
	o := &Observed{Owned: resource.State{}, Waiting: map[string]string{}, wanted: w, matched: map[resource.Kind]matched{}}
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		errs *multierror.Error
	)
	for name, k := range t {
		wg.Go(func() {
			m, matches, err := k.observe(ctx, h, w.of[name])
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				err = o.Owned.Add(m.owned...)
			}
			if err != nil {
				errs = multierror.Append(errs, fmt.Errorf("observe %s: %w", name, err))
			}
			o.Foreign = append(o.Foreign, m.foreign...)
			if matches {
				o.matched[name] = m
			}
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
