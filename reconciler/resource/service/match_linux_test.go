package service

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
)

// Wherever plumb was killed on the way from one configuration to another: comparing while looking finds what looking and
// then comparing finds, and looking at single services finds the same as looking at all.
func TestMatch(t *testing.T) {
	checks(t, "200")
	h := kindtest.Root(t)
	mapsOf(t, h, sizes)
	rapid.Check(t, func(t *rapid.T) {
		drain(t, h)
		from, to := desiredOf(t), desiredOf(t)
		if rapid.Bool().Draw(t, "much alike") && len(from) > 0 {
			to = slices.Clone(from)
			i := rapid.IntRange(0, len(to)-1).Draw(t, "changed")
			to[i] = draw(t, to[i].Name(), anyWeight)
		}
		h.OnWrite = nil
		if err := apply(h, from, asTheyCome); err != nil {
			t.Fatal(err)
		}
		k, err := host.Open(h.Options)
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		if err := applyUntil(k, to, asTheyCome, rapid.IntRange(1, 40).Draw(t, "killed")); err != nil {
			t.Fatal(err)
		}
		h.Forget()
		plain, _, err := Ops{}.Observe(context.Background(), h, nil)
		if err != nil {
			t.Fatal(err)
		}
		there := map[uint64]Service{}
		for _, s := range plain {
			there[s.held.service] = s
		}
		wanted := make([]resource.Resource, len(to))
		for i := range to {
			wanted[i] = to[i]
		}
		m, err := Ops{}.Match(context.Background(), h, wanted)
		if err != nil {
			t.Fatal(err)
		}
		same := cmp.Comparer(func(a, b entries) bool {
			return a.service == b.service && a.there == b.there && a.frontend == b.frontend && a.table == b.table &&
				slices.Equal(a.slots, b.slots) && slices.Equal(a.members, b.members)
		})
		for i, w := range to {
			id := encode(w.Frontend).service
			s, ok := there[id]
			fields, _ := Ops{}.Diff(s, w)
			if other := !ok || s.Broken != "" || len(fields) > 0; slices.Contains(m.Others, i) != other {
				t.Errorf("%s is as wanted: %t, by comparing afterwards: %t: %v", w.ID(), other, !other, fields)
			} else if !other {
				if d := cmp.Diff(*s.held, *m.As(w).held, same); d != "" {
					t.Errorf("%s as wanted (-looked +matched):\n%s", w.ID(), d)
				}
			}
			was := &w
			if i := slices.IndexFunc(from, func(f Service) bool { return f.ID() == w.ID() }); i >= 0 {
				was = &from[i]
			}
			only, err := Ops{}.Look(context.Background(), h, was, &w)
			if err != nil || (only != nil) != ok {
				t.Fatalf("%s alone: %v, %v", w.ID(), only, err)
			}
			if ok {
				if d := cmp.Diff(*s.held, *only.held, same); d != "" {
					t.Errorf("%s (-all +alone):\n%s", w.ID(), d)
				}
			}
		}
		for _, s := range m.Owned {
			if d := cmp.Diff(*there[s.held.service].held, *s.held, same); d != "" {
				t.Errorf("%s (-looked +matched):\n%s", s.ID(), d)
			}
		}
		if len(m.Owned)+len(to)-len(m.Others) != len(plain) {
			t.Errorf("%d are otherwise and %d of %d as wanted, but %d there", len(m.Owned), len(to)-len(m.Others), len(to), len(plain))
		}
	})
}
