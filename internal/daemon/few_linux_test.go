package daemon

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/service"
)

// twoServices have backends of these weights.
func twoServices(a, b int) string {
	return twoPods + fmt.Sprintf(`services: {
	a: {addresses: ["10.96.0.1"], ports: http: port: 80, backends: [{pod: "web", weight: %d}]}
	b: {addresses: ["10.96.0.2"], ports: http: port: 80, backends: [{pod: "db", weight: %d}]}
}
`, a, b)
}

// weights are those of all backends in the maps.
func (w *world) weights() string {
	w.Helper()
	o, err := reconciler.Observe(w.Context(), w.h, resource.State{})
	w.must(err)
	all := map[string]int{}
	for _, r := range o.Owned {
		if s, ok := r.(service.Service); ok {
			for _, b := range s.Backends {
				all[s.Address.String()] = b.Weight
			}
		}
	}
	return fmt.Sprint(all)
}

// TestRunGivesMemoryBack waits for that after the first cycle.
func TestRunGivesMemoryBack(t *testing.T) {
	forced := func() uint32 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.NumForcedGC
	}
	before := forced()
	w := newWorld(t, twoPods)
	w.run()
	w.await("first cycle", converged)
	end, tick := time.After(20*time.Second), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for forced() == before {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("nothing is given back though nothing happens")
		}
	}
}

// TestRunHealsPlaces takes things away in single namespaces, in several at once, and then a link as well.
func TestRunHealsPlaces(t *testing.T) {
	w := newWorld(t, twoPods)
	w.run()
	w.await("first cycle", converged)
	handle := func(pod string) *netlink.Handle {
		w.Helper()
		w.h.Forget()
		ns, err := w.h.NS(pod)
		w.must(err)
		return ns.Handle()
	}
	defaults := func(pod string) []netlink.Route {
		w.Helper()
		routes, err := handle(pod).RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_DST)
		w.must(err)
		return routes
	}
	address := func(pod string) []netlink.Addr {
		w.Helper()
		l := mustLink(w, pod, "eth0")
		addrs, err := handle(pod).AddrList(l, netlink.FAMILY_V4)
		w.must(err)
		return addrs
	}
	dropDefault := func(pod string) {
		w.Helper()
		routes := defaults(pod)
		if len(routes) != 1 {
			t.Fatalf("pod %s has the default routes %v", pod, routes)
		}
		w.must(handle(pod).RouteDel(&routes[0]))
	}
	for range 3 {
		dropDefault("web")
		w.awaitTrue("default route", func() bool { return len(defaults("web")) == 1 })
	}
	w.must(w.root().RouteDel(w.routeTo("10.0.0.10/32")))
	dropDefault("web")
	addrs := address("db") // with it goes the pod's default route
	w.must(handle("db").AddrDel(mustLink(w, "db", "eth0"), &addrs[0]))
	w.awaitTrue("everything", func() bool {
		return w.routeTo("10.0.0.10/32") != nil && len(defaults("web")) == 1 && len(address("db")) == len(addrs) && len(defaults("db")) == 1
	})
	dropDefault("db")
	w.must(w.root().LinkDel(mustLink(w, "", w.hostDev("web"))))
	w.awaitTrue("link", func() bool {
		return w.link("web", "eth0") != nil && len(defaults("web")) == 1 && len(defaults("db")) == 1
	})
	w.await("end", converged)
}

// TestRunFewServices changes single services: only they are looked at first, and are no drift, but what somebody did to
// another one without any event is found right after.
func TestRunFewServices(t *testing.T) {
	w := newWorld(t, twoServices(1, 1))
	w.run()
	w.await("first cycle", converged)
	revision := func(n int) func(api.Status) bool {
		return func(s api.Status) bool { return converged(s) && s.InForce.Revision == n }
	}
	w.write(twoServices(2, 1))
	s := w.await("revision 2", revision(2))
	if got := w.weights(); got != "map[10.96.0.1:2 10.96.0.2:1]" || len(s.Drift) > 0 {
		t.Errorf("the weights are %s, the drift %v", got, s.Drift)
	}

	o, err := reconciler.Observe(t.Context(), w.h, resource.State{})
	w.must(err)
	was := resource.State{}
	for id, r := range o.Owned {
		if s, ok := r.(service.Service); ok && s.Address.String() == "10.96.0.2" {
			was[id] = r
		}
	}
	if len(was) != 1 {
		t.Fatalf("%d services have the second address", len(was))
	}
	w.must(reconciler.ConvergeOnly(t.Context(), w.h, was, resource.State{}))
	if got := w.weights(); got != "map[10.96.0.1:2]" {
		t.Fatalf("the weights are %s", got)
	}
	w.write(twoServices(3, 1))
	s = w.await("revision 3", revision(3))
	if got := w.weights(); got != "map[10.96.0.1:3 10.96.0.2:1]" || len(s.Drift) != 1 || s.Drift[0].ID.Kind != service.Kind {
		t.Errorf("the weights are %s, the drift %v", got, s.Drift)
	}

	// A service that goes and one that comes.
	w.write(strings.Replace(twoServices(3, 1), "10.96.0.2", "10.96.0.3", 1))
	s = w.await("revision 4", revision(4))
	if got := w.weights(); got != "map[10.96.0.1:3 10.96.0.3:1]" || len(s.Drift) != 1 {
		t.Errorf("the weights are %s, the drift %v", got, s.Drift)
	}
	// And a change of more than services.
	w.write(twoServices(4, 4) + "pods: web: mtu: 1400\n")
	w.await("revision 5 or a refusal", func(s api.Status) bool { return s.Pending != nil || revision(5)(s) })
}
