package reconciler_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/schema"
)

// killed is what OnWrite panics with where a kill is played.
type killed struct{ what string }

// until runs f, whose write number n never happens, and reports that write; "" where f came to its end.
func until(n int, h *host.Host, f func() error) (at string, err error) {
	h.OnWrite = func(i int, what string) {
		if i >= n {
			panic(killed{what})
		}
	}
	defer func() {
		if p := recover(); p != nil {
			k, ok := p.(killed)
			if !ok {
				panic(p)
			}
			at = k.what
		}
	}()
	return "", f()
}

// one applies a state one change at a time, so that the writes have one order.
func one(ctx context.Context, h *host.Host, s resource.State) error {
	o, err := reconciler.Observe(ctx, h, s)
	if err != nil {
		return err
	}
	p, err := reconciler.Diff(s, o)
	if err != nil {
		return err
	}
	return reconciler.Apply(ctx, h, p, reconciler.ApplyOptions{Parallel: 1})
}

// changed are states that a crash test goes between. Those of the first two have all programs, which take the kernel a while
// to check; the others have a small part of them.
func changed(t testing.TB, adopted string) (all, other, socket, nftables resource.State) {
	t.Helper()
	all = everything(t, adopted)
	other = compileAll(t, schema.Config{
		Pods: map[string]schema.Pod{
			"db":  {Attach: "veth", Addresses: []string{"10.0.0.21", "fd00:10::20"}},
			"new": {Attach: "bridge", Addresses: []string{"10.0.0.50"}, Labels: map[string]string{"app": "x"}},
			"web": {Attach: "macvlan", Addresses: []string{"10.0.0.10", "fd00:10::10"}},
		},
		Services: map[string]schema.Service{
			"web": {
				Addresses: []string{"10.96.0.1", "fd00:96::1"}, Algorithm: "round-robin", Affinity: schema.Affinity{Timeout: "2h"},
				Ports:    map[string]schema.Port{"http": {Port: 80, TargetPort: 8080}, "dns": {Port: 53, Protocol: "UDP"}},
				Backends: []schema.Backend{{Pod: "web", State: "terminating"}, {Pod: "db", Weight: weight(2)}},
			},
			"turns": {Addresses: []string{"10.96.0.2"}, Algorithm: "maglev", Ports: map[string]schema.Port{"tcp": {Port: 53}}, Selector: map[string]string{"app": "x"}},
		},
		Routing: schema.Routing{Services: "packet"},
		Tuning:  schema.Tuning{Maps: schema.Maps{Services: 300, Ratio: larger}},
	})
	small := schema.Config{
		Pods:     map[string]schema.Pod{"web": {Attach: "veth"}, "db": {Attach: "macvlan"}},
		Services: map[string]schema.Service{"web": everyService()["web"]},
		Routing:  schema.Routing{Services: "socket"},
	}
	small.Services["web"] = without(small.Services["web"], "mac")
	socket = compileAll(t, small)
	small.Routing.Services = "nftables"
	plain := small.Services["web"]
	plain.Algorithm, plain.TableSize = "random", 0
	small.Services = map[string]schema.Service{"web": plain}
	return all, other, socket, compileAll(t, small)
}

// without is a service without the backend that is a pod.
func without(s schema.Service, pod string) schema.Service {
	s.Backends = slices.DeleteFunc(slices.Clone(s.Backends), func(b schema.Backend) bool { return b.Pod == pod })
	return s
}

// every is the distance between the writes that a test stops before. PLUMB_TEST_EVERY sets another one.
func every(t testing.TB, n int) int {
	t.Helper()
	if testing.Short() {
		n = 150 // to load a program takes seconds on an emulated machine
	}
	if env := os.Getenv("PLUMB_TEST_EVERY"); env != "" {
		var err error
		if n, err = strconv.Atoi(env); err != nil || n < 1 {
			t.Fatalf("PLUMB_TEST_EVERY is %q", env)
		}
	}
	return n
}

// TestRealCrash stops an apply, a change of everything and a destroy before single writes, and runs again: with few programs
// before each, with all before some.
func TestRealCrash(t *testing.T) {
	o := kindtest.Options(t)
	path := adopt(t)
	all, other, socket, nftables := changed(t, path)
	keys := settings(all, other, socket, nftables)
	want := map[string]string{}
	reach := func(t *testing.T, s resource.State) {
		t.Helper()
		if s == nil {
			destroy(t, o)
		} else if err := converge(t, o, s); err != nil {
			t.Fatal(err)
		}
	}
	want["nothing"] = dump(t, o, keys, path)
	type transition struct {
		from, to string
		step     int
	}
	states := map[string]resource.State{"nothing": nil, "all": all, "other": other, "socket": socket, "nftables": nftables}
	transitions := []transition{
		{"nothing", "socket", 3}, {"socket", "nftables", 3}, {"nftables", "socket", 3}, {"nftables", "nothing", 1}, {"socket", "nothing", 1},
		{"nothing", "all", 19}, {"all", "other", 19}, {"other", "all", 19}, {"all", "nothing", 19},
	}
	if testing.Short() {
		states = map[string]resource.State{"nothing": nil, "all": all}
		transitions = []transition{{"nothing", "all", 19}, {"all", "nothing", 19}}
	}
	for name, s := range states {
		if s != nil {
			reach(t, s)
			want[name] = dump(t, o, keys, path)
			reach(t, nil)
		}
	}
	for _, c := range transitions {
		t.Run(c.from+" to "+c.to, func(t *testing.T) {
			from, to := states[c.from], states[c.to]
			step := every(t, c.step)
			writes := 0
			for n := 1; ; n += step {
				reach(t, from)
				h := kindtest.Open(t, o)
				at, err := until(n, h, func() error {
					if to == nil {
						return planAndDestroy(t.Context(), h, reconciler.ApplyOptions{Parallel: 1})
					}
					return one(t.Context(), h, to)
				})
				h.Close()
				if err != nil {
					t.Fatalf("stopped at write %d: %v", n, err)
				}
				reach(t, to)
				if d := cmp.Diff(want[c.to], dump(t, o, keys, path)); d != "" {
					t.Fatalf("stopped at write %d (%s) and run again (-want +got):\n%s", n, at, d)
				}
				if at == "" || t.Failed() {
					writes = h.Writes()
					break
				}
			}
			t.Logf("%d writes, stopped before one in %d", writes, step)
			if writes < 19 {
				t.Errorf("only %d writes: the example is too small", writes)
			}
		})
	}
	destroy(t, o)
}

// TestRealKill kills the process of an apply before single writes, with SIGKILL, and runs again; with -short before fewer.
func TestRealKill(t *testing.T) {
	if os.Getenv("PLUMB_TEST_KILL") != "" {
		killChild(t, everything(t, ""))
		return
	}
	o := kindtest.Options(t)
	s := everything(t, "")
	keys := settings(s)
	if err := converge(t, o, s); err != nil {
		t.Fatal(err)
	}
	want := dump(t, o, keys)
	destroy(t, o)
	step := 17
	if testing.Short() {
		step = 1000
	}
	for n := 2; ; n += step {
		dead := kill(t, o, "TestRealKill", n)
		if err := converge(t, o, s); err != nil {
			t.Fatalf("killed at write %d: %v", n, err)
		}
		if d := cmp.Diff(want, dump(t, o, keys)); d != "" {
			t.Fatalf("killed at write %d and run again (-want +got):\n%s", n, d)
		}
		destroy(t, o)
		if !dead {
			break
		}
	}
}

// kill runs a test as a process of its own, which calls killChild, and kills itself before write n of its apply. It reports
// whether the apply got that far.
func kill(t *testing.T, o host.Options, test string, n int) bool {
	t.Helper()
	set, err := probed()
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	known := filepath.Join(t.TempDir(), "features.json")
	if err := os.WriteFile(known, data, 0o600); err != nil {
		t.Fatal(err)
	}
	// The child gets the root namespace as a file of its own, and the folders by name.
	root, err := os.Open(o.RootNS)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	cmd := exec.Command(os.Args[0], "-test.run=^"+test+"$")
	cmd.ExtraFiles = []*os.File{root}
	cmd.Env = append(os.Environ(), "PLUMB_TEST_KILL=1", "PLUMB_TEST_KILL_AT="+strconv.Itoa(n), "PLUMB_TEST_RUN="+o.RunDir,
		"PLUMB_TEST_NETNS="+o.NetNSDir, "PLUMB_TEST_FEATURES="+known, "PLUMB_TEST_BPFFS="+o.BPFFS, "PLUMB_TEST_CGROUP="+o.Cgroup)
	out, err := cmd.CombinedOutput()
	status, _ := cmd.ProcessState.Sys().(interface{ Signaled() bool })
	dead := err != nil && status != nil && status.Signaled()
	if err != nil && !dead {
		t.Fatalf("the child failed: %v\n%s", err, out)
	}
	return dead
}

// killChild applies a state, with the lock held, until it kills itself.
func killChild(t *testing.T, s resource.State) {
	h := kindtest.Open(t, host.Options{Node: kindtest.Node, RunDir: os.Getenv("PLUMB_TEST_RUN"), NetNSDir: os.Getenv("PLUMB_TEST_NETNS"),
		BPFFS: os.Getenv("PLUMB_TEST_BPFFS"), Cgroup: os.Getenv("PLUMB_TEST_CGROUP"), RootNS: "/proc/self/fd/3"})
	at, err := strconv.Atoi(os.Getenv("PLUMB_TEST_KILL_AT"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reconciler.Lock(h); err != nil {
		t.Fatal(err)
	}
	h.OnWrite = func(n int, _ string) {
		if n >= at {
			if err := unix.Kill(os.Getpid(), unix.SIGKILL); err != nil {
				panic(err)
			}
			select {}
		}
	}
	if err := reconciler.Converge(t.Context(), h, s); err != nil {
		t.Fatal(err)
	}
}
