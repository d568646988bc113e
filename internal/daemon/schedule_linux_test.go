package daemon

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpfprog"
	"plumb.internal/plumb/reconciler/resource/hostfile"
)

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
			return id.Kind == bpfprog.Kind && strings.HasPrefix(id.Name, "from_pod.") && strings.Contains(id.Name, "redirect")
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

// TestRunLosesSetting: what the files ask for of a machine that hasn't got it any more keeps nothing else from being mended.
func TestRunLosesSetting(t *testing.T) {
	w := newWorld(t, twoPods+`tuning: host: cpuGovernor: "auto"`)
	machine := t.TempDir()
	governor := filepath.Join(machine, hostfile.Governor("policy0"))
	w.must(os.MkdirAll(filepath.Dir(governor), 0o755))
	w.must(os.WriteFile(governor, []byte("schedutil\n"), 0o644))
	var gone atomic.Bool
	w.run(func(o *Options) {
		o.Host.Machine = machine
		all := o.Features
		o.Features = func(ctx context.Context) (*features.Set, error) {
			set, err := all(ctx)
			if err != nil {
				return nil, err
			}
			facts := *set.Host
			if facts.Guest, facts.Governors = false, map[string][]string{}; !gone.Load() {
				facts.Governors["policy0"] = []string{"performance", "schedutil"}
			}
			set.Host = &facts
			return set, nil
		}
	})
	w.await("first cycle", converged)
	if text, err := os.ReadFile(governor); err != nil || strings.TrimSpace(string(text)) != "performance" {
		t.Fatalf("the governor is %q, %v", text, err)
	}
	gone.Store(true)
	w.must(os.Remove(governor))
	w.must(w.root().LinkDel(mustLink(w, "", w.hostDev("web")))) // which has everything looked at
	w.await("pod's link", func(s api.Status) bool { return converged(s) && w.link("web", "eth0") != nil })
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
