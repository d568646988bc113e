package daemon

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/features"
)

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
