package service

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
)

// When a UDP backend goes, what the data path remembers of it goes too: nothing else would ever tell its clients, where a
// TCP backend that goes answers by RST or not at all. Established TCP connections to a backend that is no longer in the
// configuration are left alone, as with kube-proxy: whoever takes it out of service decides when they end.
//
// Changed services only note what is to be forgotten, and one pass over the maps at the end of the apply does it, however
// many there are. Killed before that, the next Observe finds what should have been forgotten.

// forgotten is what the data path is to forget.
type forgotten struct {
	mu         sync.Mutex
	pairs      map[pair]bool   // UDP backends
	affinities map[uint64]bool // services
}

type forgottenKey struct{}

func later(h *host.Host) *forgotten {
	return h.Kept(forgottenKey{}, func() any { return new(forgotten) }).(*forgotten)
}

func (f *forgotten) add(pairs ...pair) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pairs == nil {
		f.pairs = map[pair]bool{}
	}
	for _, p := range pairs {
		f.pairs[p] = true
	}
}

func (f *forgotten) addAffinities(service uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.affinities == nil {
		f.affinities = map[uint64]bool{}
	}
	f.affinities[service] = true
}

// take returns what has been noted, and notes nothing any more.
func (f *forgotten) take() (pairs map[pair]bool, affinities map[uint64]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	pairs, affinities = f.pairs, f.affinities
	f.pairs, f.affinities = nil, nil
	return pairs, affinities
}

// forgetGone notes what goes with a change of a service.
func (m *maps) forgetGone(old, new *entries) {
	f := later(m.h)
	sticky := old.frontend.Affinity > 0 || !old.there && len(old.members) > 0
	if sticky && new.frontend.Affinity == 0 {
		f.addAffinities(old.service)
	}
	if old.key.Proto == bpf.TCP || len(old.slots) == 0 {
		return
	}
	if !new.there {
		f.add(pair{service: old.service})
		return
	}
	stays := make(map[uint64]bool, len(new.slots))
	for _, s := range new.slots {
		stays[s.backend.ID] = true
	}
	for _, s := range old.slots {
		if !stays[s.backend.ID] {
			f.add(pair{old.service, s.backend.ID})
		}
	}
}

// Finish implements reconciler.Finisher: one pass makes the data path forget all that went.
func (Ops) Finish(ctx context.Context, h *host.Host) error {
	pairs, affinities := later(h).take()
	if len(pairs) == 0 && len(affinities) == 0 {
		return nil
	}
	err := finish(ctx, h, pairs, affinities)
	if err != nil {
		return fmt.Errorf("forget removed backends: %w", err)
	}
	return nil
}

func finish(ctx context.Context, h *host.Host, pairs map[pair]bool, affinities map[uint64]bool) error {
	m := &maps{h: h}
	if len(affinities) > 0 {
		if err := m.forgetAffinities(affinities); err != nil {
			return err
		}
	}
	if len(pairs) == 0 {
		return nil
	}
	cookies := map[uint64]bool{}
	// A program that was at work on an entry may have written it back: look until there is none.
	found := true
	for tries := 0; found && tries < 5; tries++ {
		found = false
		err := m.remembered(func(p pair, connected uint64) bool {
			if !pairs[p] && !pairs[pair{service: p.service}] {
				return false
			}
			found = true
			if connected != 0 {
				cookies[connected] = true
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	if len(cookies) == 0 {
		return nil
	}
	return destroy(ctx, h, cookies)
}

// remembered visits what the data path remembers of UDP backends; connected is the cookie of the socket that is connected
// to one, else 0. What visit says is to be forgotten is deleted: of a flow the way there first, which brings the way back
// again where that is missing.
func (m *maps) remembered(visit func(p pair, connected uint64) bool) error {
	err := sweep(m, "flows", func(k *bpf.FlowKey, v *bpf.Flow) (drop, late bool) {
		return k.Proto == bpf.UDP && visit(pair{v.Service, v.Backend}, 0), !v.Forward()
	})
	if err != nil {
		return err
	}
	for _, base := range []string{"sock_forward", "sock_reverse"} {
		err := sweep(m, base, func(k *bpf.PeerKey, v *bpf.Peer) (drop, late bool) {
			connected := uint64(0)
			if base == "sock_reverse" && k.Addr == (bpf.Address{}) {
				connected = k.Cookie
			}
			return k.Proto == bpf.UDP && visit(pair{v.Service, v.Backend}, connected), false
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *maps) forgetAffinities(services map[uint64]bool) error {
	return sweep(m, "affinities", func(k *bpf.AffinityKey, _ *bpf.Affinity) (drop, late bool) {
		return services[k.Service], false
	})
}

// sweep deletes the entries of maps of a name that look says to drop, the late ones after the others.
func sweep[K, V any](m *maps, base string, look func(*K, *V) (drop, late bool)) error {
	all, err := m.find(base)
	if err != nil {
		return err
	}
	for _, b := range all {
		var keys, last []K
		err := bpf.Each(b.Map, func(k K, v V) {
			switch drop, late := look(&k, &v); {
			case drop && late:
				last = append(last, k)
			case drop:
				keys = append(keys, k)
			}
		})
		// The data path goes on meanwhile. Where the kernel gives no batches, entries that go stop a pass.
		if err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
			return wrap(err, base)
		}
		keys = append(keys, last...)
		for i := range keys {
			m.h.Wrote("delete an entry of %s", b.Name)
			if err := b.Delete(unsafe.Pointer(&keys[i])); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("delete from map %s: %w", b.Name, err)
			}
		}
	}
	return nil
}
