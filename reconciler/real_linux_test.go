package reconciler_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/reconciler/resource/sysctl"
	"plumb.internal/plumb/schema"
)

// compile makes the desired state of a node that has these pods.
func compile(t testing.TB, pods map[string]schema.Pod) resource.State {
	t.Helper()
	c, err := compiler.Compile(&schema.Config{
		Nodes: map[string]schema.Node{kindtest.Node: {Uplinks: []string{"eth0"}, PodCIDRs: []string{"10.0.0.0/24", "fd00:10::/64"}}},
		Pods:  pods,
	}, kindtest.Node, &features.Set{AcceptAll: true})
	if err != nil {
		t.Fatal(err)
	}
	return c.State
}

// able drops the attachments that this kernel lacks, by trying them.
func able(t testing.TB, attaches ...string) []string {
	t.Helper()
	set, err := features.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	needs := map[string]features.Feature{"veth": features.LinkVeth, "bridge": features.LinkBridge, "macvlan": features.LinkMacvlan,
		"ipvlan-l2": features.LinkIPvlanL2, "ipvlan-l3": features.LinkIPvlanL3, "netkit": features.LinkNetkit}
	return slices.DeleteFunc(attaches, func(a string) bool {
		if !set.Supports(needs[a]) {
			t.Logf("left out: %s: %s", a, set.Why(needs[a]))
			return true
		}
		return false
	})
}

// everything has an example of every kind of object: pairs, a bridge, children of an uplink, an adopted namespace with
// rules, settings of the user's.
func everything(t testing.TB, adopted string) resource.State {
	t.Helper()
	pods := map[string]schema.Pod{
		"db":  {Attach: "bridge", Addresses: []string{"10.0.0.20", "fd00:10::20"}},
		"mac": {Attach: "macvlan", Addresses: []string{"10.0.0.40", "fd00:10::40"}},
		"web": {Attach: "veth", Addresses: []string{"10.0.0.10", "fd00:10::10"}, MTU: 1400,
			Sysctls: map[string]string{"net.ipv4.tcp_keepalive_time": "60", "net.ipv4.conf.eth0.arp_ignore": "1"}},
	}
	if adopted != "" {
		pods["old"] = schema.Pod{Attach: "veth", NetNS: adopted, Interface: "eth1", Addresses: []string{"10.0.0.30", "fd00:10::30"}}
	}
	return compile(t, pods)
}

// adopt makes a namespace that somebody else owns, and returns its path.
func adopt(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), kindtest.Namespace(t).Fd())
}

// settings are the IDs of all kernel settings of a state.
func settings(states ...resource.State) map[resource.ID]bool {
	keys := map[resource.ID]bool{}
	for _, s := range states {
		for id := range s {
			if id.Kind == sysctl.Kind {
				keys[id] = true
			}
		}
	}
	return keys
}

// dump prints what is in the root namespace and in every namespace of plumb's, and the names in plumb's folders; not what
// differs from run to run: indexes, times, and what IPv6 makes by itself.
func dump(t testing.TB, o host.Options, keys map[resource.ID]bool, adopted ...string) string {
	t.Helper()
	h, err := host.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for i, path := range adopted {
		h.Adopt(fmt.Sprintf("adopted%d", i), path) // also where plumb has let go of it
	}
	names, err := h.Namespaces(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, name := range names {
		lines = append(lines, dumpNS(t, h, name)...)
	}
	for id := range keys {
		ns, err := h.NS(id.NetNS)
		if err != nil {
			continue // the pod isn't there
		}
		path := "/proc/sys/" + strings.NewReplacer(".", "/", "/", ".").Replace(id.Name)
		var v []byte
		if err := ns.Do(func() (err error) { v, err = os.ReadFile(path); return err }); err == nil {
			lines = append(lines, fmt.Sprintf("%s: sysctl %s = %s", id.NetNS, id.Name, strings.TrimSpace(string(v))))
		}
	}
	for _, dir := range []string{o.RunDir, o.NetNSDir} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && d.Name() != "lock" {
				path, _ = filepath.Rel(filepath.Dir(dir), path)
				lines = append(lines, "file "+path)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// dumpNS prints the tables of one namespace.
func dumpNS(t testing.TB, h *host.Host, name string) (lines []string) {
	t.Helper()
	say := func(format string, args ...any) { lines = append(lines, name+": "+fmt.Sprintf(format, args...)) }
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	ns, err := h.NS(name)
	must(err)
	links, err := ns.Links()
	must(err)
	dev := map[int]string{0: "-"}
	for _, l := range links {
		dev[l.Index] = l.Name
	}
	for _, l := range links {
		if l.Group != resource.Group {
			l.HardwareAddr = nil // somebody else's is random
		}
		say("link %s kind %s mode %d mtu %d mac %s master %s group %#x alias %q up %t", l.Name, l.Kind, l.Mode, l.MTU, l.HardwareAddr,
			dev[l.MasterIndex], l.Group, l.Alias, l.Up())
	}
	addrs, err := ns.Addrs()
	must(err)
	for _, a := range addrs {
		if a.IP.IsLinkLocalUnicast() && a.Protocol != resource.Protocol {
			continue
		}
		say("addr %s dev %s proto %d flags %#x", a.IPNet, dev[a.LinkIndex], a.Protocol, a.Flags)
	}
	routes, err := ns.Routes()
	must(err)
	for _, r := range routes {
		if r.Protocol != resource.Protocol && host.Prefix(r.Dst).Addr().Is6() {
			continue // follows from links and addresses, in the kernel's own time
		}
		say("route %s via %s dev %s table %d metric %d proto %d type %d src %s flags %#x", r.Dst, r.Gw, dev[r.LinkIndex], r.Table,
			r.Priority, r.Protocol, r.Type, r.Src, r.Flags&unix.RTNH_F_ONLINK)
	}
	neighs, err := ns.Neighs()
	must(err)
	for _, n := range neighs {
		if n.State&unix.NUD_PERMANENT != 0 {
			say("neigh %s dev %s lladdr %s proto %d", n.IP, dev[n.LinkIndex], n.HardwareAddr, n.Protocol)
		}
	}
	proxies, err := ns.Proxies()
	must(err)
	for _, n := range proxies {
		say("neigh proxy %s dev %s proto %d", n.IP, dev[n.LinkIndex], n.Protocol)
	}
	rules, err := ns.Rules()
	must(err)
	for _, r := range rules {
		say("rule %d from %s table %d proto %d", r.Priority, r.Src, r.Table, r.Protocol)
	}
	return lines
}

// converge opens a host of its own, as each run of plumb does, and applies.
func converge(t testing.TB, o host.Options, s resource.State) error {
	t.Helper()
	h, err := host.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	return reconciler.Converge(t.Context(), h, s)
}

// destroy opens a host of its own and removes everything.
func destroy(t testing.TB, o host.Options) {
	t.Helper()
	h, err := host.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := planAndDestroy(t.Context(), h, reconciler.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{o.RunDir, o.NetNSDir} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("destroy left %s", path)
		}
	}
}

func planAndDestroy(ctx context.Context, h *host.Host, opt reconciler.ApplyOptions) error {
	p, _, err := reconciler.PlanDestroy(ctx, h)
	if err != nil {
		return err
	}
	return reconciler.Destroy(ctx, h, p, opt)
}

// TestRealDestroyAsShown destroys what the plan showed; what came afterwards is left, and said to be.
func TestRealDestroyAsShown(t *testing.T) {
	o := kindtest.Options(t)
	if err := converge(t, o, compile(t, map[string]schema.Pod{"one": {Attach: "veth"}})); err != nil {
		t.Fatal(err)
	}
	h := kindtest.Open(t, o)
	p, _, err := reconciler.PlanDestroy(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	if err := converge(t, o, compile(t, map[string]schema.Pod{"one": {Attach: "veth"}, "two": {Attach: "veth"}})); err != nil {
		t.Fatal(err)
	}
	err = reconciler.Destroy(t.Context(), h, p, reconciler.ApplyOptions{})
	if _, ok := errors.AsType[*reconciler.NotConvergedError](err); !ok {
		t.Errorf("error %v, want what was not converged", err)
	}
	if _, err := h.NS("two"); err != nil {
		t.Errorf("a pod that the plan doesn't name: %v", err)
	}
	destroy(t, o)
}

// TestRealSecondApply makes no write the second time, as counted by the host.
func TestRealSecondApply(t *testing.T) {
	o := kindtest.Options(t)
	path := adopt(t)
	s := everything(t, path)
	before := dump(t, o, settings(s), path)
	if err := converge(t, o, s); err != nil {
		t.Fatal(err)
	}
	h := kindtest.Open(t, o)
	h.OnWrite = func(_ int, what string) { t.Errorf("the second apply wrote: %s", what) }
	if err := reconciler.Converge(t.Context(), h, s); err != nil {
		t.Fatal(err)
	}
	if h.Writes() != 0 {
		t.Errorf("%d writes", h.Writes())
	}
	destroy(t, o)
	if d := cmp.Diff(before, dump(t, o, settings(s), path)); d != "" {
		t.Errorf("destroy left or changed (-before +after):\n%s", d)
	}
}

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

// TestRealCrash stops an apply, a change of everything and a destroy before each single write in turn, and runs again;
// with -short before every seventh.
func TestRealCrash(t *testing.T) {
	step := 1
	if testing.Short() {
		step = 7
	}
	o := kindtest.Options(t)
	path := adopt(t)
	all := everything(t, path)
	other := compile(t, map[string]schema.Pod{
		"db":  {Attach: "veth", Addresses: []string{"10.0.0.21", "fd00:10::20"}},
		"new": {Attach: "bridge", Addresses: []string{"10.0.0.50"}},
		"web": {Attach: "macvlan", Addresses: []string{"10.0.0.10", "fd00:10::10"}},
	})
	keys := settings(all, other)
	empty := dump(t, o, keys, path)
	if err := converge(t, o, other); err != nil {
		t.Fatal(err)
	}
	wantOther := dump(t, o, keys, path)
	destroy(t, o)
	if err := converge(t, o, all); err != nil {
		t.Fatal(err)
	}
	wantAll := dump(t, o, keys, path)
	destroy(t, o)

	for _, c := range []struct {
		name     string
		from, to resource.State // nil: nothing of plumb's, by destroy
		want     string
	}{{"apply", nil, all, wantAll}, {"change", all, other, wantOther}, {"destroy", all, nil, empty}} {
		t.Run(c.name, func(t *testing.T) {
			reach := func(s resource.State) {
				if s == nil {
					destroy(t, o)
				} else if err := converge(t, o, s); err != nil {
					t.Fatal(err)
				}
			}
			writes := 0
			for n := 1; ; n += step {
				reach(c.from)
				h := kindtest.Open(t, o)
				at, err := until(n, h, func() error {
					if c.to == nil {
						return planAndDestroy(t.Context(), h, reconciler.ApplyOptions{Parallel: 1})
					}
					return one(t.Context(), h, c.to)
				})
				h.Close()
				if err != nil {
					t.Fatalf("stopped at write %d: %v", n, err)
				}
				reach(c.to)
				if d := cmp.Diff(c.want, dump(t, o, keys, path)); d != "" {
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

// TestRealPairs brings random configurations into each other: what the second one leaves is what it leaves alone. There
// are fewer with -short.
func TestRealPairs(t *testing.T) {
	pairs := 500
	if testing.Short() {
		pairs = 40
	}
	kindtest.NeedRoot(t)
	used, fresh := kindtest.Options(t), kindtest.Options(t)
	usedNS, freshNS := adopt(t), adopt(t)
	free := able(t, "veth", "bridge", "netkit")
	shared := able(t, "macvlan", "ipvlan-l2", "ipvlan-l3")
	seed := uint64(1)
	r := rand.New(rand.NewPCG(seed, 3))
	var last resource.State
	keys := map[resource.ID]bool{}
	for i := range pairs {
		pods := randomPods(r, free, shared)
		b, alone := compile(t, withAdopted(pods, usedNS)), compile(t, withAdopted(pods, freshNS))
		maps.Copy(keys, settings(b))
		if err := converge(t, used, b); err != nil {
			t.Fatalf("pair %d: %v\n%s", i, err, explain(last, b))
		}
		if err := converge(t, fresh, alone); err != nil {
			t.Fatalf("pair %d, alone: %v\n%s", i, err, explain(nil, b))
		}
		want, got := dump(t, fresh, keys, freshNS), dump(t, used, keys, usedNS)
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("pair %d (-alone +after the other):\n%s\n%s", i, d, explain(last, b))
		}
		destroy(t, fresh)
		last = b
	}
	destroy(t, used)
}

// randomPods makes up to four pods; those that share the uplink have one attachment.
func randomPods(r *rand.Rand, free, shared []string) map[string]schema.Pod {
	attaches := slices.Clone(free)
	if len(shared) > 0 {
		attaches = append(attaches, shared[r.IntN(len(shared))])
	}
	pods := map[string]schema.Pod{}
	for i, name := range []string{"a", "b", "c", "d"} {
		if r.IntN(5) < 2 {
			continue
		}
		p := schema.Pod{Attach: attaches[r.IntN(len(attaches))], MTU: []int{0, 1400}[r.IntN(2)]}
		last := 10 + 10*i + r.IntN(2)
		if r.IntN(4) == 0 {
			last = 99 - r.IntN(4)*10 - i // sometimes another address, never that of another pod
		}
		if family := r.IntN(4); family != 1 {
			p.Addresses = append(p.Addresses, fmt.Sprintf("10.0.0.%d", last))
			if family > 1 {
				p.Addresses = append(p.Addresses, fmt.Sprintf("fd00:10::%d", last))
			}
		} else {
			p.Addresses = []string{fmt.Sprintf("fd00:10::%d", last)}
		}
		if r.IntN(4) == 0 {
			p.Sysctls = map[string]string{"net.ipv4.tcp_keepalive_time": fmt.Sprint(60 + r.IntN(2)), "net.ipv4.conf.eth0.arp_ignore": "1"}
		}
		if name == "d" && r.IntN(2) == 0 {
			p.NetNS, p.Interface, p.Sysctls = "adopted", "eth1", nil
		}
		pods[name] = p
	}
	return pods
}

// withAdopted gives the adopted pod its namespace.
func withAdopted(pods map[string]schema.Pod, path string) map[string]schema.Pod {
	pods = maps.Clone(pods)
	for name, p := range pods {
		if p.NetNS != "" {
			p.NetNS = path
			pods[name] = p
		}
	}
	return pods
}

// explain prints the plan of a pair, for a failure.
func explain(from, to resource.State) string {
	p, err := reconciler.Diff(to, &reconciler.Observed{Owned: from})
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	if err := p.WriteText(&b, resource.TextOptions{}); err != nil {
		return err.Error()
	}
	return b.String()
}

// TestRealKill kills the process of an apply before single writes, with SIGKILL, and runs again; with -short before fewer.
func TestRealKill(t *testing.T) {
	if dir := os.Getenv("PLUMB_TEST_KILL"); dir != "" {
		killChild(t, dir)
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
	step := 9
	if testing.Short() {
		step = 27
	}
	for n := 2; ; n += step {
		dir := t.TempDir()
		// The child gets the root namespace as a file of its own, and the folders by name.
		root, err := os.Open(o.RootNS)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestRealKill$")
		cmd.ExtraFiles = []*os.File{root}
		cmd.Env = append(os.Environ(), "PLUMB_TEST_KILL="+dir, "PLUMB_TEST_KILL_AT="+strconv.Itoa(n), "PLUMB_TEST_RUN="+o.RunDir,
			"PLUMB_TEST_NETNS="+o.NetNSDir)
		out, err := cmd.CombinedOutput()
		root.Close()
		status, _ := cmd.ProcessState.Sys().(interface{ Signaled() bool })
		dead := err != nil && status != nil && status.Signaled()
		if err != nil && !dead {
			t.Fatalf("the child failed: %v\n%s", err, out)
		}
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

// killChild applies everything, with the lock held, until it kills itself.
func killChild(t *testing.T, _ string) {
	h := kindtest.Open(t, host.Options{Node: kindtest.Node, RunDir: os.Getenv("PLUMB_TEST_RUN"), NetNSDir: os.Getenv("PLUMB_TEST_NETNS"),
		RootNS: "/proc/self/fd/3"})
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
	if err := reconciler.Converge(t.Context(), h, everything(t, "")); err != nil {
		t.Fatal(err)
	}
}

// TestRealForeign stops before the first write where somebody's link has a pod's name, and never touches it.
// TestRealUnmarked clears the group of our bridge, of which nothing else is lost: it is healed, and its own addresses and
// routes aren't taken for somebody else's.
func TestRealUnmarked(t *testing.T) {
	o := kindtest.Options(t)
	s := everything(t, "")
	if err := converge(t, o, s); err != nil {
		t.Fatal(err)
	}
	before := dump(t, o, settings(s))
	h := kindtest.Open(t, o)
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	cleared := 0
	for id, r := range s {
		if l, ok := r.(link.Link); !ok || l.Type != link.Bridge {
			continue
		}
		bridge, err := ns.Link(id.Name)
		if err != nil {
			t.Fatal(err)
		}
		if err := ns.Handle().LinkSetGroup(bridge, 0); err != nil {
			t.Fatal(err)
		}
		cleared++
	}
	if cleared == 0 {
		t.Fatal("no bridge is among the objects")
	}
	if d := cmp.Diff(before, dump(t, o, settings(s))); d == "" {
		t.Fatal("the mark is still there")
	}
	if err := converge(t, o, s); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, dump(t, o, settings(s))); d != "" {
		t.Errorf("not healed:\n%s", d)
	}
	destroy(t, o)
}

func TestRealForeign(t *testing.T) {
	o := kindtest.Options(t)
	s := everything(t, "")
	h := kindtest.Open(t, o)
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	var bridge string
	for id, r := range s {
		if l, ok := r.(link.Link); ok && l.Type == link.Bridge {
			bridge = id.Name
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridge
	if err := ns.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	before := dump(t, o, settings(s))
	h.OnWrite = func(_ int, what string) { t.Errorf("wrote: %s", what) }
	err = reconciler.Converge(t.Context(), h, s)
	if conflict, ok := errors.AsType[*reconciler.ConflictError](err); !ok || !strings.Contains(conflict.Error(), bridge) {
		t.Errorf("error %v, want a conflict that names %s", err, bridge)
	}
	if d := cmp.Diff(before, dump(t, o, settings(s))); d != "" {
		t.Errorf("something was touched:\n%s", d)
	}
}

// TestLock refuses a second one and names the holder; a destroy of the folder frees it.
func TestLock(t *testing.T) {
	kindtest.NeedRoot(t)
	h := kindtest.Open(t, host.Options{Node: "n", RunDir: filepath.Join(t.TempDir(), "run", "n"), NetNSDir: t.TempDir()})
	unlock, err := reconciler.Lock(h)
	if err != nil {
		t.Fatal(err)
	}
	_, err = reconciler.Lock(h)
	if locked, ok := errors.AsType[*reconciler.LockedError](err); !ok || locked.PID != os.Getpid() {
		t.Errorf("error %v, want one that names process %d", err, os.Getpid())
	}
	unlock()
	again, err := reconciler.Lock(h)
	if err != nil {
		t.Fatal(err)
	}
	again()
}
