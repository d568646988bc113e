package health

import (
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/service"
)

// listen answers at an address of a namespace.
func listen(t *testing.T, ns *host.NS, at netip.AddrPort) (l net.Listener) {
	t.Helper()
	if err := ns.Do(func() (err error) {
		l, err = net.Listen("tcp", at.String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// until waits for the prober to say something that fn is content with.
func until(t *testing.T, p *Prober, fn func(Verdicts) bool) Verdicts {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	for {
		v := p.Verdicts()
		if fn(v) {
			return v
		}
		select {
		case <-p.Changed():
		case <-deadline.C:
			t.Fatalf("still %+v", v)
		}
	}
}

func TestProber(t *testing.T) {
	h := kindtest.Root(t)
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	goroutines := runtime.NumGoroutine()
	one, two := netip.MustParseAddrPort("127.0.0.1:8080"), netip.MustParseAddrPort("[::1]:8080")
	f := resource.Frontend{Address: netip.MustParseAddr("10.96.0.1"), Port: 80, Protocol: "TCP", Algorithm: resource.Random, Backends: []resource.Backend{
		{Address: one.Addr(), Port: one.Port(), Weight: 1, State: resource.Active},
		{Address: two.Addr(), Port: two.Port(), Weight: 1, State: resource.Active},
	}}
	s := service.Service{Frontend: f}
	desired := resource.State{s.ID(): s}
	probed := func(backend netip.AddrPort, frontends ...string) compiler.HealthProbe {
		var backends []Key
		for _, name := range frontends {
			backends = append(backends, Key{Frontend: name, Backend: backend})
		}
		return compiler.HealthProbe{Backends: backends, HealthTarget: compiler.HealthTarget{
			At: backend, Type: "tcp", Interval: 100 * time.Millisecond, Timeout: 50 * time.Millisecond, Failures: 2, Successes: 2,
		}}
	}
	down := func(v Verdicts, backend netip.AddrPort) bool {
		return v[Key{Frontend: f.Name(), Backend: backend}].Down
	}
	listen(t, ns, one)
	l := listen(t, ns, two)

	p := New(ns)
	defer p.Close()
	p.Set([]compiler.HealthProbe{probed(one, f.Name(), "other"), probed(two, f.Name())})
	if v := p.Verdicts(); len(v) != 3 || down(v, one) || down(v, two) {
		t.Fatalf("before any probe: %+v", v)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	v := until(t, p, func(v Verdicts) bool { return down(v, two) })
	if k := (Key{Frontend: f.Name(), Backend: two}); !strings.HasPrefix(v[k].Reason, "connection refused by [::1]:8080 after") || v[k].Since.IsZero() {
		t.Errorf("down: %+v", v[k])
	}
	if down(v, one) || v[Key{Frontend: "other", Backend: one}].Down {
		t.Errorf("the other one is down too: %+v", v)
	}
	if got := Overlay(desired, v)[s.ID()].(service.Service); got.Backends[0].State != resource.Active || got.Backends[1].State != resource.Down {
		t.Errorf("overlaid: %+v", got.Backends)
	}

	// What is known stays with other settings, and for whoever adopts it.
	slow := probed(two, f.Name())
	slow.Interval = time.Hour
	p.Set([]compiler.HealthProbe{slow})
	if v := p.Verdicts(); len(v) != 1 || !down(v, two) {
		t.Errorf("with another interval: %+v", v)
	}
	next := New(ns)
	defer next.Close()
	next.Adopt(v)
	next.Set([]compiler.HealthProbe{slow, probed(one, f.Name())})
	if v := next.Verdicts(); len(v) != 2 || !down(v, two) || down(v, one) {
		t.Errorf("adopted: %+v", v)
	}
	next.Close()

	// It comes back.
	p.Set([]compiler.HealthProbe{probed(two, f.Name())})
	listen(t, ns, two)
	v = until(t, p, func(v Verdicts) bool { return !down(v, two) })
	if reason := v[Key{Frontend: f.Name(), Backend: two}].Reason; reason != "" {
		t.Errorf("back, but %s", reason)
	}

	// A probe that can't be made says nothing about the backend.
	blind := New(nowhere{asked: make(chan struct{})})
	defer blind.Close()
	blind.Set([]compiler.HealthProbe{probed(two, f.Name())})
	for range 4 {
		<-blind.ns.(nowhere).asked
	}
	if v := blind.Verdicts(); down(v, two) || !strings.Contains(v[Key{Frontend: f.Name(), Backend: two}].Reason, "there is no namespace") {
		t.Errorf("from nowhere: %+v", v)
	}
	blind.Set(nil)
	go func() {
		for range blind.ns.(nowhere).asked {
		}
	}()
	blind.Close()
	close(blind.ns.(nowhere).asked)

	p.Set(nil)
	if v := p.Verdicts(); len(v) != 0 {
		t.Errorf("nothing is probed any more: %+v", v)
	}
	p.Close()
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > goroutines+runtime.GOMAXPROCS(0)+2; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), goroutines)
		}
	}
}

// nowhere is a namespace that can't be entered; it tells when somebody tries.
type nowhere struct{ asked chan struct{} }

func (n nowhere) Do(func() error) error {
	n.asked <- struct{}{}
	return net.UnknownNetworkError("there is no namespace")
}
