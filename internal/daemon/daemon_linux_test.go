package daemon

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/internal/guard"
	"plumb.internal/plumb/internal/history"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

func TestMain(m *testing.M) {
	if compiler.RunEvaluator() {
		return
	}
	os.Exit(m.Run())
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
