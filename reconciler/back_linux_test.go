package reconciler_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
)

// keeping applies a state, one change at a time, so that it can be taken back, and says what it left.
func keeping(t *testing.T, h *host.Host, s resource.State) (kept []resource.ID, err error) {
	t.Helper()
	o, err := reconciler.Observe(t.Context(), h, s)
	if err != nil {
		return nil, err
	}
	p, err := reconciler.Diff(s, o)
	if err != nil {
		return nil, err
	}
	if err := reconciler.Apply(t.Context(), h, p, reconciler.ApplyOptions{Parallel: 1, Keep: true}); err != nil {
		return nil, err
	}
	return reconciler.Kept(p), reconciler.VerifyKept(t.Context(), h, s)
}

// TestRealBack takes back an apply that was cut off before single writes, and one that came to its end, from the record
// alone; and keeps one. The host is as before, or as the new state alone would have made it, to the last thing that can be
// seen.
func TestRealBack(t *testing.T) {
	o := kindtest.Options(t)
	path := adopt(t)
	all, other, socket, nftables := changed(t, path)
	keys := settings(all, other, socket, nftables)
	states := map[string]resource.State{"nothing": {}, "all": all, "other": other, "socket": socket, "nftables": nftables}
	transitions := []struct {
		from, to string
		step     int
	}{
		{"nothing", "socket", 3}, {"socket", "nftables", 3}, {"nftables", "socket", 3}, {"socket", "nothing", 3},
		{"nothing", "all", 37}, {"all", "other", 37}, {"other", "all", 37}, {"all", "nothing", 37},
	}
	if testing.Short() {
		transitions = transitions[5:6]
	}
	for _, c := range transitions {
		t.Run(c.from+" to "+c.to, func(t *testing.T) {
			from, to := states[c.from], states[c.to]
			if err := converge(t, o, to); err != nil {
				t.Fatal(err)
			}
			after := dump(t, o, keys, path)
			if err := converge(t, o, from); err != nil {
				t.Fatal(err)
			}
			before := dump(t, o, keys, path)
			record := record(t, o)
			step := every(t, c.step)
			for n := 1; ; n += step {
				h := kindtest.Open(t, o)
				at, err := until(n, h, func() error { _, err := keeping(t, h, to); return err })
				h.Close()
				if err != nil {
					t.Fatalf("stopped at write %d: %v", n, err)
				}
				back(t, o, record)
				if d := cmp.Diff(before, dump(t, o, keys, path)); d != "" {
					t.Fatalf("stopped at write %d (%s) and taken back (-before +now):\n%s", n, at, d)
				}
				if at == "" {
					break
				}
			}
			h := kindtest.Open(t, o)
			kept, err := keeping(t, h, to)
			if err == nil {
				err = reconciler.Drop(t.Context(), h, kept)
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(after, dump(t, o, keys, path)); d != "" {
				t.Errorf("applied, and what was kept dropped (-applied at once +now):\n%s", d)
			}
		})
	}
	destroy(t, o)
}

// back takes an apply back, as a process of its own.
func back(t *testing.T, o host.Options, before resource.State) {
	t.Helper()
	h := kindtest.Open(t, o)
	defer h.Close()
	if err := reconciler.Back(t.Context(), h, before); err != nil {
		t.Fatal(err)
	}
}
