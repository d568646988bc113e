package service_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpfmap"
	"plumb.internal/plumb/reconciler/resource/service"
)

// room are sizes of the maps of n services as node makes them: none is spare, but for one table.
func room(n int) map[string]int {
	return map[string]int{"frontends": n, "slots": 2 * n, "members": 2 * n, "maglev_2039s": n + 1, "affinities": 64, "flows": 64,
		"sock_forward": 64, "sock_reverse": 64}
}

// node is a state with maps of these sizes and the services from first to before end, two backends each.
func node(t *testing.T, sizes map[string]int, first, end int) resource.State {
	t.Helper()
	s := resource.State{}
	var ids []resource.ID
	for base, n := range sizes {
		m := bpfmap.Of(base, n, "")
		ids = append(ids, m.ID())
		if err := s.Add(m); err != nil {
			t.Fatal(err)
		}
	}
	for i := first; i < end; i++ {
		f := resource.Frontend{Address: netip.AddrFrom4([4]byte{10, 96, 0, byte(i)}), Port: 80, Protocol: "TCP",
			Algorithm: resource.Maglev, TableSize: 251, Affinity: 60e9}
		for j := range 2 {
			f.Backends = append(f.Backends, resource.Backend{Address: netip.AddrFrom4([4]byte{10, 0, byte(i), byte(j)}), Port: 80, Weight: 1,
				State: resource.Active})
		}
		if err := s.Add(service.Service{Frontend: f, Maps: ids}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// held is all that the maps of a host hold: entries by map and key. A frontend has its table in the place of its number.
func held(t *testing.T, h *host.Host) map[string]string {
	t.Helper()
	all := map[string]string{}
	only := func(base string) host.BPFMap {
		ms, err := h.BPFMaps(base)
		if err != nil || len(ms) != 1 {
			t.Fatalf("%d maps %s: %v", len(ms), base, err)
		}
		return ms[0]
	}
	err := bpf.Each(only("frontends").Map, func(k bpf.FrontendKey, f bpf.Frontend) {
		table, err := only(bpf.MaglevMap(int(f.Class))).LookupBytes(f.Table)
		if err != nil || table == nil {
			t.Errorf("table %d of %v: %v", f.Table, k, err)
		}
		f.Table, f.Next = 0, 0
		all[fmt.Sprint("frontend ", k)] = fmt.Sprintf("%v %x", f, table)
	})
	if err == nil {
		err = bpf.Each(only("slots").Map, func(k bpf.SlotKey, b bpf.Backend) { all[fmt.Sprint("slot ", k)] = fmt.Sprint(b) })
	}
	if err == nil {
		err = bpf.Each(only("members").Map, func(k bpf.MemberKey, slot uint32) { all[fmt.Sprint("member ", k)] = fmt.Sprint(slot) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// One apply changes the sizes of maps and the services in them, also where the maps that were there are full, or the new ones
// have no place for the tables where they were. Killed anywhere, the next apply goes on.
func TestResize(t *testing.T) {
	for name, c := range map[string]struct {
		from, to func(t *testing.T) resource.State
	}{
		"more services than there was room for": {
			func(t *testing.T) resource.State { return node(t, room(4), 0, 4) },
			func(t *testing.T) resource.State { return node(t, room(12), 0, 12) },
		},
		"fewer services, the last ones stay": {
			func(t *testing.T) resource.State { return node(t, room(12), 0, 12) },
			func(t *testing.T) resource.State {
				sizes := room(12)
				sizes["maglev_2039s"] = 4
				return node(t, sizes, 9, 12)
			},
		},
		"more tables alone": {
			func(t *testing.T) resource.State { return node(t, room(4), 0, 4) },
			func(t *testing.T) resource.State {
				sizes := room(4)
				sizes["maglev_2039s"] = 9
				return node(t, sizes, 0, 4)
			},
		},
		"others, with no table to spare": {
			func(t *testing.T) resource.State {
				sizes := room(8)
				sizes["maglev_2039s"] = 4
				return node(t, sizes, 0, 4)
			},
			func(t *testing.T) resource.State {
				sizes := room(8)
				sizes["maglev_2039s"] = 4
				return node(t, sizes, 4, 8)
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			fresh := kindtest.Root(t)
			kindtest.BPFFS(t, fresh)
			if err := reconciler.Converge(t.Context(), fresh, c.to(t)); err != nil {
				t.Fatal(err)
			}
			want := held(t, fresh)
			h := kindtest.Root(t)
			kindtest.BPFFS(t, h)
			for _, s := range []resource.State{c.from(t), c.to(t)} {
				if err := reconciler.Converge(t.Context(), h, s); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(want, held(t, h)); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
			writes := h.Writes()
			for n := 1; n < writes; n += 7 {
				killedAt(t, n, want, c.from(t), c.to(t))
			}
		})
	}
}

// killed is what a test stops plumb with.
type killed struct{}

// killedAt brings a host from one state to another, is killed at one write of that, and goes on.
func killedAt(t *testing.T, n int, want map[string]string, from, to resource.State) {
	t.Helper()
	h := kindtest.Root(t)
	kindtest.BPFFS(t, h)
	if err := reconciler.Converge(t.Context(), h, from); err != nil {
		t.Fatal(err)
	}
	dies := kindtest.Open(t, h.Options)
	o, err := reconciler.Observe(t.Context(), dies, to)
	if err != nil {
		t.Fatal(err)
	}
	p, err := reconciler.Diff(to, o)
	if err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() {
			if p := recover(); p != nil && p != (killed{}) {
				panic(p)
			}
		}()
		dies.OnWrite = func(i int, _ string) {
			if i == n {
				panic(killed{})
			}
		}
		err = reconciler.Apply(t.Context(), dies, p, reconciler.ApplyOptions{Parallel: 1})
	}()
	if err != nil {
		t.Fatalf("killed at write %d: %v", n, err)
	}
	if err := reconciler.Converge(t.Context(), h, to); err != nil {
		t.Fatalf("killed at write %d: %v", n, err)
	}
	if d := cmp.Diff(want, held(t, h)); d != "" {
		t.Errorf("killed at write %d: -want +got:\n%s", n, d)
	}
}
