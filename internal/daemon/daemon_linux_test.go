package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/internal/guard"
	"plumb.internal/plumb/internal/history"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpfprog"
)

func TestMain(m *testing.M) {
	if compiler.RunEvaluator() {
		return
	}
	os.Exit(m.Run())
}

// world is a host of the test's own with a repository, and the daemon that looks after it.
type world struct {
	*testing.T
	dir, state string
	o          host.Options
	cached     string // features

	h    *host.Host // of the test
	d    *Daemon
	dh   *host.Host // of the daemon
	stop func()
	told chan struct{}
	log  *strings.Builder
}

const twoPods = `package plumb
nodes: testnode: {uplinks: ["eth0"], podCIDRs: ["10.0.0.0/24"]}
podDefaults: attach: "veth"
pods: web: addresses: ["10.0.0.10"]
pods: db: addresses: ["10.0.0.11"]
`

func newWorld(t *testing.T, files string) *world {
	t.Helper()
	kindtest.NeedRoot(t)
	w := &world{T: t, dir: t.TempDir(), state: t.TempDir(), o: kindtest.Options(t), told: make(chan struct{}, 1)}
	w.cached = filepath.Join(t.TempDir(), "features.json")
	w.h = kindtest.Open(t, w.o)
	w.write(files)
	t.Cleanup(func() {
		if t.Failed() && w.log != nil {
			t.Log(w.log.String())
		}
	})
	return w
}

func (w *world) write(files string) {
	w.Helper()
	tmp := filepath.Join(w.dir, ".tmp")
	w.must(os.WriteFile(tmp, []byte(files), 0o644))
	w.must(os.Rename(tmp, filepath.Join(w.dir, "plumb.cue")))
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// options are a daemon's, with a host of its own.
func (w *world) options() Options {
	w.Helper()
	w.dh = kindtest.Open(w.T, w.o)
	w.log = &strings.Builder{}
	return Options{
		Node: kindtest.Node, Dir: w.dir, StateDir: w.state, Host: w.dh, Interval: time.Hour,
		Features: func(ctx context.Context) (*features.Set, error) { return features.Cached(ctx, w.cached, false) },
		Log:      slog.New(slog.NewTextHandler(w.log, nil)),
		Notify: func(string) {
			select {
			case w.told <- struct{}{}:
			default:
			}
		},
	}
}

// run starts the daemon. It is stopped with the test, or by w.stop.
func (w *world) run(change ...func(*Options)) {
	w.Helper()
	o := w.options()
	for _, f := range change {
		f(&o)
	}
	w.d = New(o)
	ctx, cancel := context.WithCancel(w.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.d.Run(ctx) }()
	stopped := false
	w.stop = func() {
		w.Helper()
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-ended:
			w.must(err)
		case <-time.After(20 * time.Second):
			w.Fatal("the daemon doesn't end")
		}
	}
	w.Cleanup(func() { cancel(); w.stop() })
}

// await waits until the daemon's status is as wanted.
func (w *world) await(what string, ok func(api.Status) bool) api.Status {
	w.Helper()
	end := time.After(20 * time.Second)
	for {
		s := w.d.Status()
		if ok(s) {
			return s
		}
		select {
		case <-w.told:
		case <-end:
			w.Fatalf("no %s; the status is %+v", what, s)
		}
	}
}

func converged(s api.Status) bool { return s.State == api.Converged }

// link finds a device of a pod as it is now, nil where there is none.
func (w *world) link(pod, name string) *host.Link {
	w.h.Forget()
	ns, err := w.h.NS(pod)
	if err != nil {
		return nil
	}
	l, err := ns.Link(name)
	if err != nil {
		return nil
	}
	return l
}

func (w *world) root() *netlink.Handle {
	ns, err := w.h.NS("")
	w.must(err)
	return ns.Handle()
}

// routeTo is the root's route to an address; nil where there is none.
func (w *world) routeTo(dst string) *netlink.Route {
	w.Helper()
	_, n, err := net.ParseCIDR(dst)
	w.must(err)
	routes, err := w.root().RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: n}, netlink.RT_FILTER_DST)
	w.must(err)
	if len(routes) == 0 {
		return nil
	}
	return &routes[0]
}

func (w *world) awaitTrue(what string, ok func() bool) {
	w.Helper()
	w.await(what, func(api.Status) bool { return ok() })
}

func TestRunAppliesAndHeals(t *testing.T) {
	w := newWorld(t, twoPods)
	w.run()
	s := w.await("first cycle", converged)
	if s.InForce == nil || s.InForce.Revision != 1 || s.InForce.From != "files" {
		t.Errorf("in force is %+v, want revision 1 of the files", s.InForce)
	}
	if w.link("web", "eth0") == nil || w.routeTo("10.0.0.10/32") == nil {
		t.Fatal("the pod isn't there")
	}
	w.must(w.root().RouteDel(w.routeTo("10.0.0.10/32")))
	w.awaitTrue("route", func() bool { return w.routeTo("10.0.0.10/32") != nil })
	s = w.await("word of the drift", func(s api.Status) bool { return len(s.Drift) > 0 })
	if d := s.Drift[0]; d.ID.Kind != "route" || d.Action != resource.Create || time.Since(d.Since) > time.Minute {
		t.Errorf("drift is told as %+v", d)
	}
	w.must(w.root().LinkDel(mustLink(w, "", w.hostDev("web"))))
	w.awaitTrue("link", func() bool { return w.link("web", "eth0") != nil && w.routeTo("10.0.0.10/32") != nil })
	w.await("end", converged)
}

// hostDev is the host's end of a pod's pair.
func (w *world) hostDev(pod string) string {
	w.Helper()
	w.h.Forget()
	ns, err := w.h.NS("")
	w.must(err)
	links, err := ns.Links()
	w.must(err)
	for _, l := range links {
		if l.Alias == w.h.Alias(pod) {
			return l.Name
		}
	}
	w.Fatalf("no device of pod %s", pod)
	return ""
}

func mustLink(w *world, pod, name string) netlink.Link {
	w.Helper()
	ns, err := w.h.NS(pod)
	w.must(err)
	l, err := ns.Handle().LinkByName(name)
	w.must(err)
	return l
}

func TestRunFollowsFiles(t *testing.T) {
	w := newWorld(t, twoPods)
	w.run()
	w.await("first cycle", converged)
	w.write(twoPods + "pods: more: addresses: [\"10.0.0.12\"]\n")
	w.await("revision 2", func(s api.Status) bool { return converged(s) && s.InForce.Revision == 2 })
	if w.link("more", "eth0") == nil {
		t.Error("the new pod isn't there")
	}
}

// TestRunBrokenFiles: whatever becomes of the files, what was in force stays, is kept true, and the status has the place.
func TestRunBrokenFiles(t *testing.T) {
	w := newWorld(t, twoPods)
	w.run()
	w.await("first cycle", converged)
	for what, files := range map[string]string{
		"syntax":    "package plumb\npods: {",
		"schema":    twoPods + "pods: web: nonsense: 1\n",
		"empty":     "",
		"no nodes":  "package plumb\n",
		"half of":   twoPods[:len(twoPods)-9],
		"duplicate": twoPods + "pods: other: addresses: [\"10.0.0.10\"]\n",
	} {
		writes := w.dh.Writes()
		w.write(files)
		s := w.await(what+" error", func(s api.Status) bool { return s.Source != nil })
		if s.State != api.Degraded || !strings.Contains(s.Reason, "plumb.cue") && what != "no nodes" {
			t.Errorf("%s: state %s, %s", what, s.State, s.Reason)
		}
		if n := w.dh.Writes() - writes; n > 0 {
			t.Errorf("%s: %d writes", what, n)
		}
		w.must(w.root().RouteDel(w.routeTo("10.0.0.10/32")))
		w.awaitTrue("healing with broken files", func() bool { return w.routeTo("10.0.0.10/32") != nil })
		w.write(twoPods)
		w.await("files that can be used", converged)
	}
	w.must(os.RemoveAll(w.dir))
	w.await("missing files", func(s api.Status) bool { return s.Source != nil })
	w.must(os.MkdirAll(w.dir, 0o755))
	w.write(twoPods)
	w.await("files that are back", converged)
}

// TestRunAdopts: a daemon that stops leaves all as it is, and one that starts writes nothing.
func TestRunAdopts(t *testing.T) {
	w := newWorld(t, twoPods)
	w.run()
	w.await("first cycle", converged)
	w.stop()
	if w.link("web", "eth0") == nil {
		t.Fatal("the pod went with the daemon")
	}
	w.run()
	w.await("second start", converged)
	if n := w.dh.Writes(); n != 0 {
		t.Errorf("the second start made %d writes", n)
	}
}

// TestRunBoots: a machine that has lost everything gets its last good state though the files are broken.
func TestRunBoots(t *testing.T) {
	w := newWorld(t, twoPods)
	w.run()
	w.await("first cycle", converged)
	w.stop()
	p, _, err := reconciler.PlanDestroy(t.Context(), w.h)
	w.must(err)
	w.must(reconciler.Destroy(t.Context(), w.h, p, reconciler.ApplyOptions{}))
	w.write("package plumb\npods: {")
	w.run()
	s := w.await("last good state", func(s api.Status) bool { return s.InForce != nil && s.Source != nil })
	if s.InForce.From != "revision 1" || w.link("web", "eth0") == nil {
		t.Errorf("in force is %+v", s.InForce)
	}
	w.write(twoPods)
	w.await("files that can be used", converged)
}

// TestRunWaits: what needs a flag waits for it, and what was before is kept true meanwhile.
func TestRunWaits(t *testing.T) {
	w := newWorld(t, twoPods)
	w.run()
	w.await("first cycle", converged)
	w.write(strings.Replace(twoPods, `attach: "veth"`, `attach: "bridge"`, 1))
	s := w.await("waiting", func(s api.Status) bool { return s.Pending != nil })
	if s.State != api.Waiting || fmt.Sprint(s.Pending.Needs) != "[--allow-disruption]" {
		t.Errorf("state %s, pending %+v", s.State, s.Pending)
	}
	w.must(w.root().RouteDel(w.routeTo("10.0.0.10/32")))
	w.awaitTrue("healing", func() bool { return w.routeTo("10.0.0.10/32") != nil })
	w.apply()
	s = w.await("the allowed change", converged)
	if w.link("", "plumb0") == nil || s.InForce.Revision != 2 || s.InForce.From != "files" {
		t.Errorf("bridge %v, in force %+v", w.link("", "plumb0"), s.InForce)
	}
	w.must(w.root().LinkDel(mustLink(w, "", w.hostDev("web"))))
	w.awaitTrue("link, as it is now", func() bool { return w.link("web", "eth0") != nil && w.link("", "plumb0") != nil })
}

// apply makes the host what the files say, as `plumb apply` does with whatever flags it takes.
func (w *world) apply() {
	w.Helper()
	src, err := compiler.Load(w.Context(), w.dir, nil)
	w.must(err)
	defer src.Close()
	set, err := features.Cached(w.Context(), w.cached, false)
	w.must(err)
	c, err := compiler.Compile(src.Config, kindtest.Node, set)
	w.must(err)
	var unlock func()
	w.awaitTrue("lock", func() bool { unlock, err = reconciler.Lock(w.h); return err == nil })
	defer unlock()
	w.must(reconciler.Converge(w.Context(), w.h, c.State))
	r, err := history.New(src.Config, w.dir, resource.Summary{})
	w.must(err)
	w.must(history.Write(w.state, kindtest.Node, r))
}

// TestRunFollowsOthers: what somebody else applied is in force until the files change.
func TestRunFollowsOthers(t *testing.T) {
	w := newWorld(t, twoPods)
	w.run()
	w.await("first cycle", converged)
	w.write(twoPods + "pods: more: addresses: [\"10.0.0.12\"]\n")
	w.await("revision 2", func(s api.Status) bool { return converged(s) && s.InForce.Revision == 2 })
	first, err := history.Get(w.state, kindtest.Node, 1)
	w.must(err)
	back, err := history.New(first.Config, w.dir, resource.Summary{})
	w.must(err)
	w.must(history.Write(w.state, kindtest.Node, back)) // as a rollback does
	w.must(w.root().RouteDel(w.routeTo("10.0.0.10/32")))
	w.await("revision 3", func(s api.Status) bool { return converged(s) && s.InForce.Revision == 3 })
	if w.link("more", "eth0") != nil {
		t.Error("the pod of revision 2 is still there")
	}
	w.stop()
	w.run() // it holds across a restart
	w.await("revision 3 again", func(s api.Status) bool { return converged(s) && s.InForce.Revision == 3 })
	w.write(twoPods + "pods: more: addresses: [\"10.0.0.13\"]\n")
	w.await("revision 4", func(s api.Status) bool { return converged(s) && s.InForce.Revision == 4 })
	files, err := history.Get(w.state, kindtest.Node, 4)
	w.must(err)
	again := func(r *history.Revision) {
		t.Helper()
		r, err := history.New(r.Config, w.dir, resource.Summary{})
		w.must(err)
		w.must(history.Write(w.state, kindtest.Node, r))
		w.must(w.root().RouteDel(w.routeTo("10.0.0.10/32"))) // it takes a look
	}
	again(first)
	w.await("revision 5", func(s api.Status) bool {
		return converged(s) && s.InForce.Revision == 5 && s.InForce.From == "revision 5"
	})
	again(files)
	w.await("revision 6", func(s api.Status) bool { return converged(s) && s.InForce.Revision == 6 && s.InForce.From == "files" })
}

// TestRunPrefersLaterFiles: what was applied before the files were changed doesn't keep the change away.
func TestRunPrefersLaterFiles(t *testing.T) {
	w := newWorld(t, twoPods)
	w.run()
	w.await("first cycle", converged)
	w.write(twoPods + "pods: more: addresses: [\"10.0.0.12\"]\n")
	w.await("revision 2", func(s api.Status) bool { return converged(s) && s.InForce.Revision == 2 })
	first, err := history.Get(w.state, kindtest.Node, 1)
	w.must(err)
	unlock, err := reconciler.Lock(w.h) // as an apply does
	w.must(err)
	back, err := history.New(first.Config, w.dir, resource.Summary{})
	w.must(err)
	w.must(history.Write(w.state, kindtest.Node, back))
	w.write(twoPods + "pods: more: addresses: [\"10.0.0.13\"]\n")
	unlock()
	w.await("revision 4", func(s api.Status) bool { return converged(s) && s.InForce.Revision == 4 && s.InForce.From == "files" })
	if w.link("more", "eth0") == nil {
		t.Error("the pod that the files name isn't there")
	}
}

func TestRunSuspends(t *testing.T) {
	w := newWorld(t, twoPods)
	w.run()
	w.await("first cycle", converged)
	w.must(w.d.Suspend(t.Context(), "for a look"))
	w.must(w.root().RouteDel(w.routeTo("10.0.0.10/32")))
	w.stop()
	w.run() // it outlives the daemon
	s := w.await("suspension", func(s api.Status) bool { return s.State == api.Suspended })
	if s.Reason != "for a look" || w.routeTo("10.0.0.10/32") != nil {
		t.Errorf("suspended for %q; route %v", s.Reason, w.routeTo("10.0.0.10/32"))
	}
	w.must(w.d.Resume(t.Context()))
	if !converged(w.d.Status()) || w.routeTo("10.0.0.10/32") == nil {
		t.Errorf("after resume: %+v", w.d.Status())
	}
}

func TestOnce(t *testing.T) {
	w := newWorld(t, twoPods)
	w.must(New(w.options()).Once(t.Context()))
	if w.link("web", "eth0") == nil {
		t.Error("the pod isn't there")
	}
	w.write("package plumb\npods: {")
	if err := New(w.options()).Once(t.Context()); err == nil {
		t.Error("broken files are no error")
	}
}

// TestRunLeavesReverted: what an apply had to take back isn't put in force again, until the files say something else.
func TestRunLeavesReverted(t *testing.T) {
	more := twoPods + "pods: more: addresses: [\"10.0.0.12\"]\n"
	w := newWorld(t, more)
	w.run()
	w.await("first cycle", converged)
	r, err := history.Last(w.state, kindtest.Node)
	w.must(err)
	w.write(twoPods)
	w.await("revision 2", func(s api.Status) bool { return converged(s) && s.InForce.Revision == 2 })
	data, err := json.Marshal(guard.Reverted{Time: time.Now(), Why: "nobody confirmed", Digest: r.Digest})
	w.must(err)
	w.must(w.h.WriteFile(w.h.Path("reverted.json"), data))
	w.write(more)
	s := w.await("waiting", func(s api.Status) bool { return s.Pending != nil })
	if !strings.Contains(s.Pending.Reason, "nobody confirmed") || w.link("more", "eth0") != nil {
		t.Errorf("pending %+v", s.Pending)
	}
	w.write(more + "pods: evenmore: addresses: [\"10.0.0.13\"]\n")
	w.await("another configuration", func(s api.Status) bool { return converged(s) && s.InForce.Revision == 3 })
	if w.link("more", "eth0") == nil {
		t.Error("the pod isn't there")
	}
}

// TestRunFollowsMachine: what was compiled for a machine that could do something else is compiled again.
func TestRunFollowsMachine(t *testing.T) {
	w := newWorld(t, twoPods)
	var without atomic.Bool
	w.run(func(o *Options) {
		o.Interval = 50 * time.Millisecond
		all := o.Features
		o.Features = func(ctx context.Context) (*features.Set, error) {
			set, err := all(ctx)
			if err == nil && without.Load() {
				no := false
				set.Features[features.RedirectPeer] = features.Status{Supported: &no, Reason: "a test"}
			}
			return set, err
		}
	})
	short := func() bool { // whether packets go straight from pod to pod
		c, _ := w.d.InForce()
		return slices.ContainsFunc(slices.Collect(maps.Keys(c.State)), func(id resource.ID) bool {
			return id.Kind == bpfprog.Kind && strings.HasPrefix(id.Name, "from_pod.redirect")
		})
	}
	w.await("first cycle", converged)
	if !short() {
		t.Fatal("packets don't go straight")
	}
	without.Store(true)
	w.await("the long way", func(s api.Status) bool { return converged(s) && !short() })
	if s := w.d.Status(); s.InForce.From != "files" || s.InForce.Revision != 1 {
		t.Errorf("in force is %+v, want the files, which are revision 1", s.InForce)
	}
}

// TestRunWithoutHistory mends what there is to mend though nothing can be written down, and says so.
func TestRunWithoutHistory(t *testing.T) {
	w := newWorld(t, twoPods)
	w.must(os.WriteFile(filepath.Join(w.state, kindtest.Node), nil, 0o600)) // where its folder would be
	w.run()
	w.await("warning", func(s api.Status) bool {
		return converged(s) && slices.ContainsFunc(s.Warnings, func(s string) bool { return strings.Contains(s, "can't be kept") })
	})
	w.must(w.root().RouteDel(w.routeTo("10.0.0.10/32")))
	w.awaitTrue("route", func() bool { return w.routeTo("10.0.0.10/32") != nil })
	w.must(os.Remove(filepath.Join(w.state, kindtest.Node)))
	w.must(w.root().RouteDel(w.routeTo("10.0.0.10/32")))
	w.await("revision 1", func(s api.Status) bool { return converged(s) && s.InForce.Revision == 1 })
}

func TestNext(t *testing.T) {
	failing := resource.ID{Kind: "route", Name: "10.0.0.10/32"}
	for name, c := range map[string]struct {
		d     *Daemon
		retry time.Duration
		want  time.Duration // from now, to half a second
	}{
		"nothing":           {d: &Daemon{whole: time.Now()}, want: time.Hour},
		"long ago":          {d: &Daemon{whole: time.Now().Add(-2 * time.Hour)}, retry: time.Second, want: time.Second},
		"never":             {d: &Daemon{}, retry: 3 * time.Second, want: 3 * time.Second},
		"an object's pause": {d: &Daemon{whole: time.Now(), backoff: backoff{failing: {next: time.Now().Add(5 * time.Second)}}}, want: 5 * time.Second},
		"one that wasn't tried in its turn": {
			d: &Daemon{whole: time.Now(), backoff: backoff{failing: {next: time.Now().Add(-time.Minute)}}}, want: backoffFirst,
		},
	} {
		c.d.Interval = time.Hour
		if got := time.Until(c.d.next(c.retry)); (got - c.want).Abs() > time.Second/2 {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestNoise: an event that leads to nothing makes a pause after some; no pause follows from a look that nothing led to.
func TestNoise(t *testing.T) {
	var d Daemon
	for range noiseFree {
		d.noise(false, true)
	}
	if !d.deaf.IsZero() {
		t.Error("it is deaf too soon")
	}
	d.noise(false, true)
	deaf := d.deaf
	if deaf.IsZero() {
		t.Error("it isn't deaf")
	}
	if d.noise(false, false); d.deaf != deaf {
		t.Error("a look that nothing led to makes it deaf")
	}
	if d.noise(true, true); d.idle != 0 {
		t.Error("a change doesn't make it listen again")
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct {
		object, name string
		want         bool
	}{
		{"10.0.0.10/32 dev eth0", "10.0.0.10", true},
		{"10.0.0.10/32 dev eth0", "10.0.0.1", false},
		{"110.0.0.1/32 dev eth0", "10.0.0.1", false},
		{"10.0.0.10/32", "10.0.0.10/32", true},
		{"fd00::10 dev pl-web", "fd00::1", false},
		{"proxy fd00::10 dev pl-web", "fd00::10", true},
		{"default6", "default", true},
		{"eth0", "", true},
		{"eth0", "eth1", false},
	} {
		if got := names(c.object, c.name); got != c.want {
			t.Errorf("%q in %q: %v", c.name, c.object, got)
		}
	}
}

// TestRunLetsGo: a namespace that plumb has adopted ends with its last process, though a daemon looks after it.
func TestRunLetsGo(t *testing.T) {
	container := exec.CommandContext(t.Context(), "sleep", "3600")
	container.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	kindtest.NeedRoot(t)
	if err := container.Start(); err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() { _ = container.Process.Kill(); _ = container.Wait() })
	t.Cleanup(end)
	w := newWorld(t, twoPods+fmt.Sprintf("pods: guest: {netns: \"/proc/%d/ns/net\", addresses: [\"10.0.0.12\"]}\n", container.Process.Pid))
	w.run()
	w.await("first cycle", converged)
	dev := w.hostDev("guest")
	w.h.LetGo()
	w.must(w.d.Suspend(t.Context(), "so that nothing wakes it"))
	end()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); w.link("", dev) != nil; <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("the daemon keeps the namespace alive")
		}
	}
}
