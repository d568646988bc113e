package reconciler

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-multierror"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/reconciler/resource/sysctl"
)

// randomState makes a valid desired state of up to six pods.
func randomState(r *rand.Rand) resource.State {
	shared := []string{"macvlan-bridge", "ipvlan-l2", "ipvlan-l3"}[r.IntN(3)] // one uplink has one mode
	var pods []fakePod
	for i, name := range []string{"a", "b", "c", "d", "e", "f"} {
		if r.IntN(2) == 0 {
			continue
		}
		p := fakePod{name: name, attach: []string{"veth", "bridge", "netkit", shared}[r.IntN(4)], ip: 10 + i, mtu: 1400 + 100*r.IntN(2)}
		if r.IntN(8) == 0 {
			p.ip += 100
		}
		if r.IntN(5) == 0 {
			p.iface = "eth1"
		}
		if r.IntN(5) == 0 {
			p.adopted = fmt.Sprintf("/proc/%d/ns/net", 1+r.IntN(2))
		}
		pods = append(pods, p)
	}
	return state(pods...)
}

// alone is what applying only s leaves.
func alone(t *testing.T, s resource.State) string {
	t.Helper()
	k := newFake()
	if _, err := k.converge(t.Context(), s, 1); err != nil {
		t.Fatal(err)
	}
	return k.dump()
}

// TestRandomPairs brings random states into each other, through injected faults: after every retry the host is exactly
// what the second state alone makes of it, and then there is nothing left to do.
func TestRandomPairs(t *testing.T) {
	const pairs = 2500
	for seed := range uint64(pairs) {
		r := rand.New(rand.NewPCG(seed, 1))
		a, b := randomState(r), randomState(r)
		k := newFake()
		if _, err := k.converge(t.Context(), a, 1); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		k.faults = r
		parallel := 1 + 7*r.IntN(2)
		for tries := 0; ; tries++ {
			_, err := k.converge(t.Context(), b, parallel)
			if err == nil {
				break
			}
			if !errors.Is(err, errFault) || tries > 100 {
				t.Fatalf("seed %d, parallel %d: %v", seed, parallel, err)
			}
		}
		if d := cmp.Diff(alone(t, b), k.dump()); d != "" {
			t.Fatalf("seed %d: differs from the second state alone (-alone +both):\n%s", seed, d)
		}
		k.faults = nil
		calls := len(k.calls)
		if p, err := k.converge(t.Context(), b, 1); err != nil || !p.Empty() || len(k.calls) != calls {
			t.Fatalf("seed %d: the second apply wasn't empty: %v %v", seed, p.Changes, err)
		}
	}
}

// TestOnlyFaultsFail checks that injected faults are the only errors: nothing is tried whose ground is missing.
func TestOnlyFaultsFail(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 2))
		k := newFake()
		k.objects = randomState(r)
		k.faults = r
		_, err := k.converge(t.Context(), randomState(r), 1+7*r.IntN(2))
		if err == nil {
			continue
		}
		merr, ok := errors.AsType[*multierror.Error](err)
		if !ok {
			t.Fatalf("seed %d: %v", seed, err)
		}
		for _, e := range merr.Errors {
			if !errors.Is(e, errFault) {
				t.Errorf("seed %d: %v", seed, e)
			}
		}
	}
}

// TestCrash dies after every number of calls and runs again.
func TestCrash(t *testing.T) {
	web := fakePod{name: "web", attach: "veth", ip: 10}
	db := fakePod{name: "db", attach: "macvlan-bridge", ip: 20}
	old := fakePod{name: "old", attach: "bridge", ip: 30}
	from := state(web, db, old)
	web.attach, db.attach = "bridge", "ipvlan-l2"
	to := state(web, db, fakePod{name: "new", attach: "netkit", ip: 40})
	want := alone(t, to)
	for _, parallel := range []int{1, 8} {
		for n := 0; ; n++ {
			k := newFake()
			if _, err := k.converge(t.Context(), from, 1); err != nil {
				t.Fatal(err)
			}
			k.budget = n
			_, err := k.converge(t.Context(), to, parallel)
			if !k.died {
				if err != nil {
					t.Fatal(err)
				}
				if n < 20 {
					t.Errorf("only %d calls: the example is too small", n)
				}
				break
			}
			if err == nil {
				t.Fatalf("died after %d calls without an error", n)
			}
			k.died, k.budget = false, -1
			if _, err := k.converge(t.Context(), to, parallel); err != nil {
				t.Fatalf("died after %d calls, then: %v", n, err)
			}
			if d := cmp.Diff(want, k.dump()); d != "" {
				t.Fatalf("died after %d calls, then (-want +got):\n%s", n, d)
			}
		}
	}
}

// TestClaims moves an uplink's children from macvlan to ipvlan: every macvlan goes before the first ipvlan comes.
func TestClaims(t *testing.T) {
	var before, after []fakePod
	for i := range 5 {
		before = append(before, fakePod{name: fmt.Sprint("p", i), attach: "macvlan-bridge", ip: 10 + i})
		after = append(after, fakePod{name: fmt.Sprint("p", i+1), attach: "ipvlan-l3", ip: 11 + i}) // p0 goes, p5 comes
	}
	for _, parallel := range []int{1, 8} {
		k := newFake()
		if _, err := k.converge(t.Context(), state(before...), parallel); err != nil {
			t.Fatal(err)
		}
		k.calls = nil
		if _, err := k.converge(t.Context(), state(after...), parallel); err != nil {
			t.Fatal(err)
		}
		first := slices.IndexFunc(k.calls, func(c string) bool { return strings.HasPrefix(c, "create link") })
		last := -1
		for i, c := range k.calls {
			if strings.HasPrefix(c, "delete link") || strings.HasPrefix(c, "delete netns") {
				last = i
			}
		}
		if first < last {
			t.Errorf("parallel %d: %s comes before %s", parallel, k.calls[first], k.calls[last])
		}
	}
}

// TestFailureSkipsOnlyDependents lets one link fail: its pod is skipped and named, the other pod is made.
func TestFailureSkipsOnlyDependents(t *testing.T) {
	for _, parallel := range []int{1, 8} {
		k := newFake()
		bad := link.For("web", "eth0")
		k.refuse = func(id resource.ID) bool { return id == bad }
		_, err := k.converge(t.Context(), state(fakePod{name: "web", attach: "veth", ip: 10}, fakePod{name: "db", attach: "veth", ip: 20}), parallel)
		failed, ok := errors.AsType[*ChangeError](err)
		if !ok || failed.ID != bad || failed.Action != resource.Create || !errors.Is(err, errFault) {
			t.Fatalf("error %v", err)
		}
		var skipped []string
		for _, id := range failed.Skipped {
			skipped = append(skipped, id.String())
		}
		if d := cmp.Diff([]string{"route 10.0.0.10/32", "sysctl net.ipv4.conf.h-web.rp_filter", "addr web/10.0.0.10/32 dev eth0",
			"neigh web/169.254.10.24 dev eth0", "route web/default"}, skipped); d != "" {
			t.Errorf("skipped (-want +got):\n%s", d)
		}
		for _, id := range state(fakePod{name: "db", attach: "veth", ip: 20}).IDs() {
			if k.objects[id] == nil {
				t.Errorf("parallel %d: %s is missing", parallel, id)
			}
		}
	}
}

// TestDeletesWait runs what nothing waits for after everything that adds, also where workers have nothing else to do.
func TestDeletesWait(t *testing.T) {
	for range 50 {
		k := newFake()
		if _, err := k.converge(t.Context(), state(fakePod{name: "old", attach: "veth", ip: 30}), 1); err != nil {
			t.Fatal(err)
		}
		s := state(fakePod{name: "web", attach: "veth", ip: 10})
		p, err := k.plan(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		last := map[string]bool{}
		for _, st := range newGraph(p.Changes).steps {
			if st.last {
				last["delete "+st.id.String()] = true
			}
		}
		k.calls = nil
		if err := k.table().apply(t.Context(), nil, p, ApplyOptions{Parallel: 8}); err != nil {
			t.Fatal(err)
		}
		first := slices.IndexFunc(k.calls, func(c string) bool { return last[c] })
		if first < 0 {
			t.Fatalf("no delete comes last among %q", k.calls)
		}
		for _, c := range k.calls[first:] {
			if strings.HasPrefix(c, "create ") {
				t.Fatalf("%s comes after a delete that could wait:\n%s", c, strings.Join(k.calls, "\n"))
			}
		}
	}
}

// TestCancel stops before the next change, not in the middle of one.
func TestCancel(t *testing.T) {
	k := newFake()
	ctx, cancel := context.WithCancel(t.Context())
	s := state(fakePod{name: "web", attach: "veth", ip: 10})
	p, err := k.plan(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	done := 0
	err = k.table().apply(ctx, nil, p, ApplyOptions{Parallel: 1, Progress: func(n, total int, c resource.Change) {
		if done = n; n == 3 {
			cancel()
		}
		if total != len(p.Changes) || c.ID != p.Changes[n-1].ID {
			t.Errorf("progress %d of %d: %s, the plan says %s", n, total, c.ID, p.Changes[n-1].ID)
		}
	}})
	if !errors.Is(err, context.Canceled) || done != 3 || len(k.calls) != 3 {
		t.Errorf("error %v after %d changes and %d calls", err, done, len(k.calls))
	}
	if _, err := k.converge(t.Context(), s, 1); err != nil {
		t.Error(err)
	}
}

// TestRefuse has the thresholds of the deletion guard, and disruption.
func TestRefuse(t *testing.T) {
	pods := func(n int, attach string) []fakePod {
		var ps []fakePod
		for i := range n {
			ps = append(ps, fakePod{name: fmt.Sprintf("p%02d", i), attach: attach, ip: 10 + i})
		}
		return ps
	}
	change := func(from, to []fakePod) (*resource.Plan, *Observed) {
		o := &Observed{Owned: state(from...)}
		p, err := newFake().table().diff(state(to...), o)
		if err != nil {
			t.Fatal(err)
		}
		return p, o
	}
	refused := func(what string, from, to []fakePod, allowed Allowed, want any) {
		t.Helper()
		p, o := change(from, to)
		if err := Refuse(p, o, allowed); fmt.Sprintf("%T", err) != fmt.Sprintf("%T", want) {
			t.Errorf("%s: %v, want %T", what, err, want)
		}
	}
	ten := pods(10, "veth")
	refused("a few of many", ten, ten[:6], Allowed{}, nil)
	refused("most", ten, ten[:2], Allowed{}, &DeletionError{})
	refused("most, allowed", ten, ten[:2], Allowed{Delete: true}, nil)
	refused("all", ten, nil, Allowed{}, &DeletionError{})
	refused("everything replaced", ten, pods(10, "netkit"), Allowed{}, &DisruptionError{})
	refused("everything replaced, allowed", ten, pods(10, "netkit"), Allowed{Disruption: true}, nil)
	refused("another attachment", ten, pods(10, "bridge"), Allowed{Disruption: true}, nil)
	refused("nothing", ten, ten, Allowed{}, nil)
	for _, c := range []struct {
		gone, owned int
		refused     bool
	}{{9, 9, false}, {10, 10, true}, {10, 19, true}, {10, 20, false}, {500, 1000, false}, {501, 1000, true}} {
		o, rest := &Observed{Owned: resource.State{}}, resource.State{}
		for i := range c.owned {
			s := sysctl.Sysctl{Key: fmt.Sprintf("net.%d", i)}
			o.Owned[s.ID()] = s
			if i >= c.gone {
				rest[s.ID()] = s
			}
		}
		p, err := newFake().table().diff(rest, o)
		if err != nil {
			t.Fatal(err)
		}
		if err := Refuse(p, o, Allowed{}); (err != nil) != c.refused {
			t.Errorf("%d of %d: %v", c.gone, c.owned, err)
		}
	}
	if err := Refuse(&resource.Plan{Conflicts: make([]resource.Conflict, 1)}, &Observed{}, Allowed{true, true}); err == nil {
		t.Error("conflicts were allowed")
	}
}
