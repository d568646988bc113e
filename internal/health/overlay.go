package health

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/nft"
	"plumb.internal/plumb/reconciler/resource/service"
)

// Overlay is a desired state with the backends down that the verdicts say are: nothing but the states of backends in
// services differs. Where none of a frontend's backends would be left for new clients all are used: probes that all fail
// may be wrong, and an answer from nobody is certain.
func Overlay(state resource.State, v Verdicts) resource.State {
	overlaid, _ := overlay(state, v)
	return overlaid
}

// Unanswered lists the frontends, in order, none of whose backends answers, so that all are used.
func Unanswered(state resource.State, v Verdicts) []string {
	_, all := overlay(state, v)
	return all
}

func overlay(state resource.State, v Verdicts) (overlaid resource.State, unanswered []string) {
	down := map[string]map[netip.AddrPort]bool{}
	for k, verdict := range v {
		if !verdict.Down {
			continue
		}
		if down[k.Frontend] == nil {
			down[k.Frontend] = map[netip.AddrPort]bool{}
		}
		down[k.Frontend][k.Backend] = true
	}
	if len(down) == 0 {
		return state, nil
	}
	apply := func(f *resource.Frontend) {
		backends, any := without(f.Backends, down[f.Name()])
		if !any {
			unanswered = append(unanswered, f.Name())
			return
		}
		f.Backends = backends
	}
	overlaid = maps.Clone(state)
	for name := range down {
		id := resource.ID{Kind: service.Kind, Name: name}
		if s, ok := state[id].(service.Service); ok {
			apply(&s.Frontend)
			overlaid[id] = s
		}
	}
	id := nft.Table{}.ID()
	if t, ok := state[id].(nft.Table); ok {
		t.Frontends = slices.Clone(t.Frontends)
		for i := range t.Frontends {
			if f := &t.Frontends[i]; down[f.Name()] != nil {
				apply(f)
			}
		}
		overlaid[id] = t
	}
	slices.Sort(unanswered)
	return overlaid, slices.Compact(unanswered)
}

// without returns backends with those that are down marked, and whether any is left for new clients, or there was none
// before.
func without(backends []resource.Backend, down map[netip.AddrPort]bool) (marked []resource.Backend, any bool) {
	marked = slices.Clone(backends)
	had := false
	for i := range marked {
		b := &marked[i]
		if b.State != resource.Active {
			continue
		}
		had = had || b.Weight > 0
		if down[b.At()] {
			b.State = resource.Down
		} else if b.Weight > 0 {
			any = true
		}
	}
	return marked, any || !had
}

// Observed are the backends that the kernel has as down, for Prober.Adopt. A desired state that is overlaid by them differs
// from what is there by no backend's health.
func Observed(owned resource.State) Verdicts {
	v := Verdicts{}
	note := func(f resource.Frontend) {
		for _, b := range f.Backends {
			if b.State == resource.Down {
				v[Key{Frontend: f.Name(), Backend: b.At()}] = Verdict{Down: true}
			}
		}
	}
	for _, r := range owned {
		switch r := r.(type) {
		case service.Service:
			if r.Leftover == "" {
				note(r.Frontend)
			}
		case nft.Table:
			for _, f := range r.Frontends {
				note(f)
			}
		}
	}
	return v
}

// Of are the verdicts on backends that are probed.
func (v Verdicts) Of(probes []compiler.HealthProbe) Verdicts {
	some := Verdicts{}
	for _, p := range probes {
		for _, k := range p.Backends {
			if verdict, ok := v[k]; ok {
				some[k] = verdict
			}
		}
	}
	return some
}

// Flips are the backends, in order, that went down or came back from one set of verdicts to the next.
func Flips(before, after Verdicts) []Key {
	var flips []Key
	for k, v := range after {
		if old, known := before[k]; old.Down != v.Down && (known || v.Down) {
			flips = append(flips, k)
		}
	}
	slices.SortFunc(flips, func(a, b Key) int {
		return cmp.Or(a.Backend.Compare(b.Backend), cmp.Compare(a.Frontend, b.Frontend))
	})
	return flips
}
