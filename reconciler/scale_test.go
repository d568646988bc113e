package reconciler

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/service"
)

// flat is a kind whose objects cost nothing to look at: what remains is the reconciler's own time.
type flat struct{ owned []service.Service }

func (f flat) Observe(_ context.Context, _ *host.Host, _ []service.Service) (owned, foreign []service.Service, err error) {
	return f.owned, nil, nil
}

func (flat) Diff(a, b service.Service) ([]resource.Field, bool) {
	if a.Algorithm != b.Algorithm {
		return []resource.Field{{Name: "algorithm", Before: a.Algorithm, After: b.Algorithm}}, true
	}
	return nil, true
}

func (flat) Create(_ context.Context, _ *host.Host, _ service.Service) error    { return nil }
func (flat) Update(_ context.Context, _ *host.Host, _, _ service.Service) error { return nil }
func (flat) Delete(_ context.Context, _ *host.Host, _ service.Service) error    { return nil }

// flatServices are n services.
func flatServices(n int) []service.Service {
	all := make([]service.Service, n)
	for i := range all {
		all[i].Frontend = resource.Frontend{
			Address: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Port: 80, Protocol: "TCP", Algorithm: resource.Random,
		}
	}
	return all
}

// BenchmarkOneOfMany is the time to observe, compare and change one of many objects.
func BenchmarkOneOfMany(b *testing.B) {
	for _, n := range []int{1000, 10000, 50000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			all := flatServices(n)
			t := table{service.Kind: of(flat{flatServices(n)})}
			desired := resource.State{}
			for _, s := range all {
				desired[s.ID()] = s
			}
			changed := all[n/2]
			changed.Algorithm = resource.Maglev
			desired[changed.ID()] = changed
			h := &host.Host{}
			b.ReportAllocs()
			for b.Loop() {
				o, err := t.observe(b.Context(), h, desired)
				if err != nil {
					b.Fatal(err)
				}
				p, err := t.diff(desired, o)
				if err != nil || len(p.Changes) != 1 {
					b.Fatal(len(p.Changes), err)
				}
				if err := t.apply(b.Context(), h, p, ApplyOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkManyFromNothing is the reconciler's own time to create many objects.
func BenchmarkManyFromNothing(b *testing.B) {
	for _, n := range []int{1000, 10000, 50000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			t := table{service.Kind: of(flat{})}
			desired := resource.State{}
			for _, s := range flatServices(n) {
				desired[s.ID()] = s
			}
			h := &host.Host{}
			b.ReportAllocs()
			for b.Loop() {
				o, err := t.observe(b.Context(), h, desired)
				if err != nil {
					b.Fatal(err)
				}
				p, err := t.diff(desired, o)
				if err != nil || len(p.Changes) != n {
					b.Fatal(len(p.Changes), err)
				}
				if err := t.apply(b.Context(), h, p, ApplyOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
