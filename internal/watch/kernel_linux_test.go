package watch

import (
	"net"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	podns "plumb.internal/plumb/reconciler/resource/netns"
)

// ear is a watcher of a host of the test's own.
type ear struct {
	*testing.T
	h *host.Host
	k *Kernel
}

func listen(t *testing.T, pods ...string) *ear {
	t.Helper()
	h := kindtest.Root(t)
	for _, pod := range pods {
		kindtest.Pod(t, h, pod)
	}
	k, err := NewKernel(h)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	if err := k.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	k.Take()
	return &ear{t, h, k}
}

// hears waits for an event that is as wanted, and returns it.
func (e *ear) hears(what string, want func(Event) bool) Event {
	e.Helper()
	end := time.After(5 * time.Second)
	var heard []Event
	for {
		ev := e.k.Take()
		for _, v := range ev.List {
			if want(v) {
				return v
			}
		}
		heard = append(heard, ev.List...)
		select {
		case <-e.k.C:
		case <-end:
			e.Fatalf("no word of %s; heard was %+v", what, heard)
		}
	}
}

// count is how many events of a kind were heard of what has been done. The uplink comes up meanwhile.
func (e *ear) count(kind resource.Kind) (n int) {
	e.Helper()
	for _, v := range e.k.Take().List {
		if v.Kind == kind {
			n++
		}
	}
	return n
}

func (e *ear) ns(pod string) (*netlink.Handle, int) {
	e.Helper()
	ns, i, err := e.h.Device(pod, map[bool]string{true: "eth0", false: "lo"}[pod == ""])
	if err != nil {
		e.Fatal(err)
	}
	return ns.Handle(), i
}

func (e *ear) must(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

func dst(s string) *net.IPNet {
	_, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	return n
}

func TestKernelHears(t *testing.T) {
	e := listen(t, "web")
	for _, pod := range []string{"", "web"} {
		h, dev := e.ns(pod)
		if pod != "" {
			l, err := h.LinkByIndex(dev)
			e.must(err)
			e.must(h.LinkSetMTU(l, 9000))
			e.hears("link", func(v Event) bool { return v.Kind == "link" && v.NetNS == pod && v.Name == "lo" })
		}
		of := func(kind resource.Kind, name string, removed bool) func(Event) bool {
			return func(v Event) bool {
				return v.Kind == kind && v.NetNS == pod && v.Name == name && v.Removed == removed
			}
		}
		l, err := h.LinkByIndex(dev)
		e.must(err)
		a := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(32, 32)}}
		e.must(h.AddrAdd(l, a))
		e.hears("address", of("addr", "192.0.2.1", false))
		e.must(h.AddrDel(l, a))
		e.hears("address", of("addr", "192.0.2.1", true))

		r := &netlink.Route{Dst: dst("198.51.100.0/24"), LinkIndex: dev, Protocol: resource.Protocol}
		e.must(h.RouteAdd(r))
		e.hears("route", of("route", "198.51.100.0/24", false))
		other := *r
		other.Protocol = unix.RTPROT_STATIC
		e.must(h.RouteReplace(&other))
		if v := e.hears("replaced route", of("route", "198.51.100.0/24", false)); v.By != "a route of protocol static" {
			t.Errorf("replaced by %q", v.By)
		}
		e.must(h.RouteReplace(r))
		e.must(h.RouteDel(r))
		e.hears("route", of("route", "198.51.100.0/24", true))

		n := &netlink.Neigh{LinkIndex: dev, IP: net.IPv4(192, 0, 2, 9), State: netlink.NUD_PERMANENT, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
		e.must(h.NeighAdd(n))
		// A loopback device has one neighbour, of no address.
		e.hears("neighbour", of("neigh", map[string]string{"": "192.0.2.9", "web": "0.0.0.0"}[pod], false))

		rule := netlink.NewRule()
		rule.Priority, rule.Table, rule.Family = 1000, 112, netlink.FAMILY_V4
		e.must(h.RuleAdd(rule))
		e.hears("rule", of("rule", "", false))

		e.must(h.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: dev, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}))
		e.hears("qdisc", of("bpflink", "", false))
	}
}

// TestKernelLeavesOut: what others do by the thousand, and what the kernel learns, isn't worth a look.
func TestKernelLeavesOut(t *testing.T) {
	e := listen(t)
	h, dev := e.ns("")
	r := &netlink.Route{Dst: dst("198.51.100.0/24"), LinkIndex: dev, Protocol: unix.RTPROT_BGP}
	e.must(h.RouteAdd(r))
	e.must(h.RouteDel(r))
	if e.count("route") > 0 {
		t.Error("a foreign route was heard of")
	}
	e.must(h.NeighAdd(&netlink.Neigh{LinkIndex: dev, IP: net.IPv4(192, 0, 2, 9), State: netlink.NUD_REACHABLE, HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}))
	if e.count("neigh") > 0 {
		t.Error("a learnt neighbour was heard of")
	}
}

// TestKernelTakesAll: what was done before Take is in what it returns.
func TestKernelTakesAll(t *testing.T) {
	e := listen(t)
	h, dev := e.ns("")
	for i := range 200 {
		r := &netlink.Route{Dst: &net.IPNet{IP: net.IPv4(10, 0, 0, byte(i)), Mask: net.CIDRMask(32, 32)}, LinkIndex: dev, Protocol: resource.Protocol}
		e.must(h.RouteAdd(r))
		if n := e.count("route"); n != 1 {
			t.Fatalf("route %d was heard of %d times", i, n)
		}
	}
}

// TestKernelPins: a pin that somebody deletes has no other event.
func TestKernelPins(t *testing.T) {
	e := listen(t, "web")
	for _, folder := range [][]string{{host.BPFMapFolder}, {host.BPFProgramFolder}, {host.BPFLinkFolder, "_root"}} {
		pin := e.h.BPFPath(append(folder, "pin")...)
		e.must(os.MkdirAll(pin, 0o755)) // a folder does for a name
		e.must(e.k.Look(t.Context()))
		e.must(os.Remove(pin))
		e.hears("pin", func(v Event) bool { return v.Removed && v.Name == "pin" })
	}
}

// TestKernelNamespaceGoes: a namespace that is deleted is heard of, and its number isn't taken for another's.
func TestKernelNamespaceGoes(t *testing.T) {
	e := listen(t, "web", "db")
	e.must((podns.Ops{}).Delete(t.Context(), e.h, podns.NetNS{Name: "web"}))
	e.hears("removed name", func(v Event) bool { return v.Removed && v.Name == "web" })
	e.h.Forget()
	e.must(e.k.Look(t.Context()))
	e.k.Take()
	h, dev := e.ns("db")
	l, err := h.LinkByIndex(dev)
	e.must(err)
	e.must(h.LinkSetMTU(l, 9000))
	e.hears("link of the other pod", func(v Event) bool { return v.NetNS == "db" && v.Kind == "link" })
}

func TestKernelLost(t *testing.T) {
	e := listen(t)
	h, dev := e.ns("")
	e.k.mu.Lock() // nobody reads meanwhile
	for _, s := range e.k.sources {
		_ = s.raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 0) })
	}
	for i := range 200 {
		e.must(h.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.IPv4(10, 0, 0, byte(i)), Mask: net.CIDRMask(32, 32)}, LinkIndex: dev, Protocol: resource.Protocol}))
	}
	e.k.mu.Unlock()
	if !e.k.Take().Lost {
		t.Error("an overrun isn't told")
	}
}

func TestKernelCloses(t *testing.T) {
	h := kindtest.Root(t)
	k, err := NewKernel(h)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { k.Close(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("the watcher doesn't end")
	}
}
