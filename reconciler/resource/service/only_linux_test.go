package service_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/service"
)

// A change of one service by itself leaves what a whole apply leaves, wherever it was killed, and writes no more than that.
func TestConvergeOnly(t *testing.T) {
	h := kindtest.Root(t)
	kindtest.BPFFS(t, h)
	s := node(t, room(8), 0, 4)
	id := service.For(resource.Frontend{Address: netip.MustParseAddr("10.96.0.2"), Port: 80, Protocol: "TCP"})
	one := s[id].(service.Service)
	other := one
	other.Backends = append([]resource.Backend(nil), one.Backends...)
	other.Backends[1].Address = netip.MustParseAddr("10.0.2.9")
	step := func(from, to resource.Resource) {
		t.Helper()
		state := func(r resource.Resource) resource.State {
			if r == nil {
				return nil
			}
			return resource.State{id: r}
		}
		all := resource.State{}
		for i, r := range s {
			all[i] = r
		}
		whole := func(r resource.Resource) resource.State {
			if delete(all, id); r != nil {
				all[id] = r
			}
			return all
		}
		if err := reconciler.Converge(t.Context(), h, whole(from)); err != nil {
			t.Fatal(err)
		}
		n := h.Writes()
		if err := reconciler.Converge(t.Context(), h, whole(to)); err != nil {
			t.Fatal(err)
		}
		want, writes := held(t, h), h.Writes()-n
		for kill := 1; kill <= writes+1; kill++ {
			if err := reconciler.Converge(t.Context(), h, whole(from)); err != nil {
				t.Fatal(err)
			}
			k, err := host.Open(h.Options)
			if err != nil {
				t.Fatal(err)
			}
			func() {
				defer func() { _ = recover() }()
				k.OnWrite = func(i int, _ string) {
					if i == kill {
						panic("killed")
					}
				}
				err = reconciler.ConvergeOnly(t.Context(), k, state(from), state(to))
			}()
			if done := k.Writes() < kill; done != (kill > writes) || done && err != nil {
				t.Errorf("%d writes, as many as a whole apply: %d, %v", k.Writes(), writes, err)
			}
			k.Close()
			if err := reconciler.ConvergeOnly(t.Context(), h, state(from), state(to)); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, held(t, h)); d != "" {
				t.Errorf("killed before write %d (-whole apply +alone):\n%s", kill, d)
			}
			n := h.Writes()
			if err := reconciler.Converge(t.Context(), h, whole(to)); err != nil || h.Writes() != n {
				t.Errorf("a whole apply afterwards wrote %d times, %v", h.Writes()-n, err)
			}
		}
	}
	step(one, other)
	step(one, nil)
	step(nil, one)
}

// What can't be looked at by itself is refused.
func TestConvergeOnlyRefuses(t *testing.T) {
	h := kindtest.Root(t)
	kindtest.BPFFS(t, h)
	if err := reconciler.ConvergeOnly(t.Context(), h, nil, node(t, room(1), 0, 0)); err == nil || h.Writes() > 0 {
		t.Errorf("%d writes, %v", h.Writes(), err)
	}
}
