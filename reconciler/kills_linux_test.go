package reconciler_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/schema"
)

// TestTrafficSurvivesKills stops applies before every single write while streams go on, and runs again.
//
// Where a change loads no programs, an apply is stopped before its first write and another one completes it; then one that
// goes back is stopped before its first write; then before the second write, and so on. The verifier takes a second for all
// programs of a node, too long for each of a hundred writes: what loads them goes by short runs, of which each makes one
// write and is stopped before the next. PLUMB_TEST_EVERY=1 does it there as with the others.
func TestTrafficSurvivesKills(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes on an emulated machine; a full run has it")
	}
	small := []struct {
		name   string
		change func(*schema.Config)
	}{
		{"an unrelated pod", unrelated},
		{"affinity", sticky},
		{"Maglev", algorithm("maglev", 251)},
		{"round-robin", algorithm("round-robin", 0)},
		{"weights", heavier},
		{"no new clients", leaving},
		{"a backend drained", drained},
	}
	for _, way := range []string{"packet", "socket"} {
		t.Run(way, func(t *testing.T) {
			o := kindtest.Options(t)
			plain := compileAll(t, streamed(way))
			tr := begin(t, o, plain, 0)
			for _, c := range small {
				tr.stopped(c.name, o, 1, plain, compileAll(t, streamed(way, c.change)))
			}
			const name = "all at once, with programs and maps"
			all := allAtOnce(t, way)
			tr.stepped(name, o, plain, all)
			if step := every(t, 1000); step < 1000 {
				tr.stopped(name, o, step, plain, all)
			}
		})
	}
}

// allAtOnce has everything changed that can be changed.
func allAtOnce(t *testing.T, way string) resource.State {
	t.Helper()
	return compileAll(t, streamed(way, unrelated, algorithm("maglev", 509), sticky, drained, settled, roomy))
}

// TestTrafficSurvivesSIGKILL kills processes of applies, which work in parallel, while streams go on.
func TestTrafficSurvivesSIGKILL(t *testing.T) {
	if os.Getenv("PLUMB_TEST_KILL") != "" {
		killChild(t, allAtOnce(t, "socket"))
		return
	}
	if testing.Short() {
		t.Skip("minutes on an emulated machine; a full run has it")
	}
	o := kindtest.Options(t)
	plain, all := compileAll(t, streamed("socket")), allAtOnce(t, "socket")
	tr := begin(t, o, plain, 0)
	for n := 5; kill(t, o, t.Name(), n); n += 31 {
		tr.flows(fmt.Sprintf("killed at write %d", n))
		for _, s := range []resource.State{all, plain} {
			if err := converge(t, o, s); err != nil {
				t.Fatalf("killed at write %d and run again: %v", n, err)
			}
		}
		tr.flows(fmt.Sprintf("killed at write %d and run again", n))
	}
}

// TestTrafficSurvivesKilledWays does it with applies that carry services by another way, and back.
func TestTrafficSurvivesKilledWays(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes on an emulated machine; a full run has it")
	}
	for _, ways := range [][2]string{{"packet", "socket"}, {"packet", "auto"}, {"socket", "auto"}} {
		t.Run(ways[0]+" "+ways[1], func(t *testing.T) {
			o := kindtest.Options(t)
			from, to := compileAll(t, streamed(ways[0])), compileAll(t, streamed(ways[1]))
			begin(t, o, from, 2).stepped(ways[0]+" to "+ways[1], o, from, to)
		})
	}
}

// stopped goes from one state to the other and back by applies that are stopped before one write in so many, each
// completed by another.
func (tr *traffic) stopped(name string, o host.Options, step int, from, to resource.State) {
	tr.t.Helper()
	states, ended := [2]resource.State{from, to}, [2]bool{}
	n := 1
	for ; !ended[0] || !ended[1]; n += step {
		for i := range states {
			goal := states[1-i]
			h := kindtest.Open(tr.t, o)
			at, err := until(n, h, func() error { return one(tr.t.Context(), h, goal) })
			h.Close()
			if err != nil {
				tr.t.Fatalf("%s, stopped at write %d: %v", name, n, err)
			}
			ended[i] = at == ""
			tr.flows(fmt.Sprintf("%s, stopped at write %d (%s)", name, n, at))
			if err := converge(tr.t, o, goal); err != nil {
				tr.t.Fatalf("%s, stopped at write %d (%s) and run again: %v", name, n, at, err)
			}
			tr.flows(fmt.Sprintf("%s, stopped at write %d (%s) and run again", name, n, at))
		}
	}
	tr.t.Logf("%s: %d writes, stopped before one in %d", name, n, step)
}

// stepped goes from one state to the other and back by runs that are stopped after their first write; after more where
// that leaves nothing behind, such as a program that isn't pinned yet.
func (tr *traffic) stepped(name string, o host.Options, from, to resource.State) {
	tr.t.Helper()
	keys := settings(from, to)
	want := [2]string{1: dump(tr.t, o, keys)}
	if err := converge(tr.t, o, to); err != nil {
		tr.t.Fatal(err)
	}
	want[0] = dump(tr.t, o, keys)
	tr.flows(name)
	if err := converge(tr.t, o, from); err != nil {
		tr.t.Fatal(err)
	}
	for i, goal := range []resource.State{to, from} {
		runs, was := 0, dump(tr.t, o, keys)
		for n := 2; ; runs++ {
			h := kindtest.Open(tr.t, o)
			at, err := until(n, h, func() error { return one(tr.t.Context(), h, goal) })
			h.Close()
			if err != nil {
				tr.t.Fatalf("%s, run %d stopped at write %d (%s): %v", name, runs, n, at, err)
			}
			tr.flows(fmt.Sprintf("%s, run %d stopped at write %d (%s)", name, runs, n, at))
			if at == "" {
				break
			}
			if is := dump(tr.t, o, keys); is != was {
				n, was = 2, is
			} else if n++; n > 50 {
				tr.t.Fatalf("%s: 50 writes change nothing; the last is %s", name, at)
			}
		}
		tr.t.Logf("%s: %d runs", name, runs)
		if err := converge(tr.t, o, goal); err != nil {
			tr.t.Fatal(err)
		}
		if d := cmp.Diff(want[i], dump(tr.t, o, keys)); d != "" {
			tr.t.Fatalf("%s, after %d runs (-want +got):\n%s", name, runs, d)
		}
	}
}
