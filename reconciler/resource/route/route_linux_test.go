package route_test

import (
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/route"
)

func root(t *testing.T, h *host.Host) *host.NS {
	t.Helper()
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func ipnet(prefix string) *net.IPNet {
	p := netip.MustParsePrefix(prefix)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func index(t *testing.T, h *host.Host, dev string) int {
	t.Helper()
	i, err := root(t, h).LinkIndex(dev)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// plant adds a route as somebody else would.
func plant(t *testing.T, h *host.Host, r netlink.Route, dev string) {
	t.Helper()
	if dev != "" {
		r.LinkIndex = index(t, h, dev)
	}
	if err := root(t, h).Handle().RouteAppend(&r); err != nil {
		t.Fatal(err)
	}
	h.Forget()
}

// table prints the routes to a destination, "static eth0 metric 50" each.
func table(t *testing.T, h *host.Host, dst string) (list []string) {
	t.Helper()
	h.Forget()
	owned, foreign, err := (route.Ops{}).Observe(t.Context(), h, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range append(owned, foreign...) {
		if r.Dst == netip.MustParsePrefix(dst) && r.Table == route.MainTable {
			list = append(list, r.Describe())
		}
	}
	slices.Sort(list)
	return list
}

// setup makes a second device of the node, and an address that routes may name as their source.
func setup(t *testing.T, h *host.Host) {
	t.Helper()
	ns := root(t, h)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Group = "pl0", resource.Group
	if err := ns.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	l, err := ns.Link("pl0")
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Handle().LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"192.0.2.1/32", "2001:db8::1/128"} {
		flags := unix.IFA_F_NOPREFIXROUTE
		if strings.Contains(a, ":") {
			flags |= unix.IFA_F_NODAD
		}
		if err := ns.Handle().AddrAdd(l, &netlink.Addr{IPNet: ipnet(a), Flags: flags}); err != nil {
			t.Fatal(err)
		}
	}
	h.Forget()
}

var (
	gw4, gw6   = netip.MustParseAddr(resource.Gateway4), netip.MustParseAddr(resource.Gateway6)
	src4, src6 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	dst4, dst6 = netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00:10::/64")
)

func samples() []route.Route {
	var all []route.Route
	for _, f := range []struct {
		dst     netip.Prefix
		gw, src netip.Addr
		metric  int
	}{{dst4, gw4, src4, 0}, {dst6, gw6, src6, 1024}} {
		r := route.Route{Dst: f.dst, Table: route.MainTable, Metric: f.metric, Dev: "pl0"}
		via, onlink, src, other, unreachable, narrow := r, r, r, r, r, r
		via.Gateway, via.OnLink, via.Dev = f.gw, true, "eth0"
		onlink.Gateway, onlink.OnLink = f.gw, true
		src.Src = f.src
		other.Dev, other.Metric, other.Table = "eth0", 50, resource.Table
		unreachable.Dev, unreachable.Unreachable, unreachable.PodPrefix = "", true, true
		narrow.MTU = 1400
		all = append(all, r, via, onlink, src, other, unreachable, narrow)
	}
	return all
}

func TestKind(t *testing.T) {
	kindtest.Run(t, kindtest.Kind[route.Route]{
		Ops: route.Ops{}, Samples: samples(), Setup: setup,
		Foreign: func(t *testing.T, h *host.Host, r route.Route) func(t *testing.T) {
			plant(t, h, netlink.Route{Dst: ipnet(r.Dst.String()), Protocol: unix.RTPROT_STATIC}, "eth0")
			return func(t *testing.T) {
				if got := table(t, h, r.Dst.String()); !slices.Equal(got, []string{r.Dst.String() + " dev eth0"}) {
					t.Errorf("the foreign route became %q", got)
				}
			}
		},
	})
}

func TestForeignIPv6(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	want := route.Route{Dst: dst6, Table: route.MainTable, Metric: 1024, Dev: "pl0", Gateway: gw6, OnLink: true}
	plant(t, h, netlink.Route{Dst: ipnet(dst6.String()), Protocol: unix.RTPROT_STATIC, Priority: 1024, Gw: gw6.AsSlice(), Flags: unix.RTNH_F_ONLINK}, "eth0")
	// The kernel would make a multipath route of the two, were it not for EXCL.
	if err := (route.Ops{}).Create(t.Context(), h, want); err == nil {
		t.Error("create succeeds beside a foreign route of the same key")
	}
	h.Forget()
	if err := (route.Ops{}).Delete(t.Context(), h, want); err != nil {
		t.Error(err)
	}
	if got := table(t, h, dst6.String()); !slices.Equal(got, []string{"fd00:10::/64 via fe80::1 dev eth0 onlink"}) {
		t.Errorf("the foreign route became %q", got)
	}
}

// A next hop that somebody appends to a route of ours is drift; the route is made anew without it.
func TestAppendedHop(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	want := route.Route{Dst: dst6, Table: route.MainTable, Metric: 1024, Dev: "pl0", Gateway: gw6, OnLink: true}
	if err := (route.Ops{}).Create(t.Context(), h, want); err != nil {
		t.Fatal(err)
	}
	plant(t, h, netlink.Route{Dst: ipnet(dst6.String()), Protocol: resource.Protocol, Priority: 1024, Gw: net.ParseIP("fe80::2"), Flags: unix.RTNH_F_ONLINK}, "pl0")
	owned, _, err := (route.Ops{}).Observe(t.Context(), h, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(owned) != 1 || owned[0].Trouble != "2 next hops" {
		t.Fatalf("owned: %+v", owned)
	}
	if _, inPlace := (route.Ops{}).Diff(owned[0], want); inPlace {
		t.Error("it can't be mended in place")
	}
	if err := (route.Ops{}).Delete(t.Context(), h, owned[0]); err != nil {
		t.Fatal(err)
	}
	if got := table(t, h, dst6.String()); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

// A route of ours that somebody gave another type is mended in place, and can be deleted.
func TestOtherType(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	for i, dst := range []netip.Prefix{dst4, dst6, dst4, dst6} {
		want := route.Route{Dst: dst, Table: route.MainTable, Dev: "pl0", Metric: map[bool]int{true: 1024}[dst.Addr().Is6()]}
		shown := "pl0"
		if i >= 2 {
			want.Dev, want.Unreachable, shown = "", true, "unreachable"
		}
		for _, kind := range []int{unix.RTN_BLACKHOLE, unix.RTN_PROHIBIT, unix.RTN_THROW} {
			if err := (route.Ops{}).Create(t.Context(), h, want); err != nil {
				t.Fatal(err)
			}
			other := &netlink.Route{Dst: ipnet(dst.String()), Table: route.MainTable, Priority: want.Metric, Protocol: resource.Protocol, Type: kind}
			spoil := func() route.Route {
				t.Helper()
				if err := root(t, h).Handle().RouteReplace(other); err != nil {
					t.Fatal(err)
				}
				h.Forget()
				owned, _, err := (route.Ops{}).Observe(t.Context(), h, []route.Route{want})
				if err != nil || len(owned) != 1 {
					t.Fatalf("%+v: %v", owned, err)
				}
				return owned[0]
			}
			if err := (route.Ops{}).Update(t.Context(), h, spoil(), want); err != nil {
				t.Fatal(err)
			}
			if got := table(t, h, dst.String()); len(got) != 1 || !strings.Contains(got[0], shown) {
				t.Errorf("type %d: mended to %q", kind, got)
			}
			if err := (route.Ops{}).Delete(t.Context(), h, spoil()); err != nil {
				t.Fatal(err)
			}
			if got := table(t, h, dst.String()); len(got) != 0 {
				t.Errorf("type %d: left %q", kind, got)
			}
		}
	}
}

// To the kernel, metric 0 in an IPv4 delete means any metric.
func TestMetricZero(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	zero := route.Route{Dst: dst4, Table: route.MainTable, Dev: "pl0"}
	fifty := zero
	fifty.Metric = 50
	for _, r := range []route.Route{zero, fifty} {
		if err := (route.Ops{}).Create(t.Context(), h, r); err != nil {
			t.Fatal(err)
		}
	}
	h.Forget()
	for range 2 { // the second time from the same, now stale look
		if err := (route.Ops{}).Delete(t.Context(), h, zero); err != nil {
			t.Fatal(err)
		}
	}
	if got := table(t, h, dst4.String()); !slices.Equal(got, []string{"10.0.0.0/24 dev pl0 metric 50"}) {
		t.Errorf("left: %q", got)
	}
}

// An update while somebody else's route has the same destination under another metric, or came under the same key.
func TestUpdateBesideForeign(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	from := route.Route{Dst: dst4, Table: route.MainTable, Metric: 20, Dev: "pl0"}
	to := from
	to.Gateway, to.OnLink = gw4, true
	if err := (route.Ops{}).Create(t.Context(), h, from); err != nil {
		t.Fatal(err)
	}
	plant(t, h, netlink.Route{Dst: ipnet(dst4.String()), Protocol: unix.RTPROT_STATIC, Priority: 30}, "eth0")
	plant(t, h, netlink.Route{Dst: ipnet(dst4.String()), Protocol: unix.RTPROT_STATIC, Priority: 20}, "eth0")
	if err := (route.Ops{}).Update(t.Context(), h, from, to); err != nil {
		t.Fatal(err)
	}
	want := []string{"10.0.0.0/24 dev eth0 metric 20", "10.0.0.0/24 dev eth0 metric 30", "10.0.0.0/24 via 169.254.10.24 dev pl0 metric 20 onlink"}
	if got := table(t, h, dst4.String()); !slices.Equal(got, want) {
		t.Errorf("routes %q, want %q", got, want)
	}
}

// The kernel accepts each of these silently, and then the pods' packets go astray.
func TestSilentConflicts(t *testing.T) {
	for _, c := range []struct {
		name  string
		plant func(t *testing.T, h *host.Host)
		want  string
	}{
		{"lower metric", func(t *testing.T, h *host.Host) {
			plant(t, h, netlink.Route{Dst: ipnet("10.0.0.0/24"), Protocol: unix.RTPROT_STATIC, Priority: 10}, "eth0")
		}, "10.0.0.0/24 dev eth0 proto static metric 10"},
		{"longer prefix", func(t *testing.T, h *host.Host) {
			plant(t, h, netlink.Route{Dst: ipnet("10.0.0.7/32"), Protocol: unix.RTPROT_BOOT}, "eth0")
		}, "10.0.0.7 dev eth0 proto boot"},
		{"longer prefix in a table of a rule", func(t *testing.T, h *host.Host) {
			plant(t, h, netlink.Route{Dst: ipnet("fd00:10::7/128"), Table: 300, Protocol: unix.RTPROT_STATIC}, "eth0")
			rule := netlink.NewRule()
			rule.Family, rule.Table, rule.Priority = unix.AF_INET6, 300, 1000
			if err := root(t, h).Handle().RuleAdd(rule); err != nil {
				t.Fatal(err)
			}
			h.Forget()
		}, "fd00:10::7 dev eth0 table 300 proto static metric 1024"},
		{"longer prefix in a table of no rule", func(t *testing.T, h *host.Host) {
			plant(t, h, netlink.Route{Dst: ipnet("fd00:10::7/128"), Table: 300, Protocol: unix.RTPROT_STATIC}, "eth0")
		}, ""},
		{"longer prefix, unreachable", func(t *testing.T, h *host.Host) {
			plant(t, h, netlink.Route{Dst: ipnet("fd00:10::/96"), Type: unix.RTN_UNREACHABLE, Protocol: unix.RTPROT_STATIC}, "")
		}, "unreachable fd00:10::/96 proto static metric 1024"},
		{"the uplink's network", func(t *testing.T, h *host.Host) {
			l, err := root(t, h).Link("eth0")
			if err != nil {
				t.Fatal(err)
			}
			if err := root(t, h).Handle().AddrAdd(l, &netlink.Addr{IPNet: ipnet("10.0.77.1/16")}); err != nil {
				t.Fatal(err)
			}
			h.Forget()
		}, "10.0.0.0/16 dev eth0 proto kernel scope link src 10.0.77.1"},
		{"nothing but an ordinary host", func(t *testing.T, h *host.Host) {
			plant(t, h, netlink.Route{Dst: ipnet("192.168.31.0/24"), Protocol: unix.RTPROT_STATIC}, "eth0")
			plant(t, h, netlink.Route{Dst: ipnet("0.0.0.0/0"), Protocol: unix.RTPROT_DHCP, Gw: net.ParseIP("192.168.31.1"), Flags: unix.RTNH_F_ONLINK}, "eth0")
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := kindtest.Root(t)
			setup(t, h)
			desired := resource.State{}
			if err := desired.Add(
				route.Route{Dst: dst4, Table: route.MainTable, Metric: 4000, Unreachable: true, PodPrefix: true},
				route.Route{Dst: dst6, Table: route.MainTable, Metric: 4000, Unreachable: true, PodPrefix: true},
			); err != nil {
				t.Fatal(err)
			}
			c.plant(t, h)
			_, foreign, err := (route.Ops{}).Observe(t.Context(), h, nil)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, x := range (route.Ops{}).Conflicts(desired, foreign) {
				got = append(got, x.Foreign)
			}
			if strings.Join(got, ", ") != c.want {
				t.Errorf("conflicts %q, want %q", got, c.want)
			}
		})
	}
}

// In a pod of its own a foreign route matters only where a wanted one should be: the kernel would refuse that.
func TestForeignInPod(t *testing.T) {
	h := kindtest.Root(t)
	kindtest.Pod(t, h, "web")
	pod, err := h.NS("web")
	if err != nil {
		t.Fatal(err)
	}
	want := route.Route{NetNS: "web", Dst: netip.MustParsePrefix("0.0.0.0/0"), Table: route.MainTable, Dev: "eth0"}
	for _, dst := range []string{"0.0.0.0/0", "10.9.0.0/24"} {
		r := netlink.Route{Dst: ipnet(dst), Type: unix.RTN_BLACKHOLE, Protocol: unix.RTPROT_STATIC}
		if err := pod.Handle().RouteAdd(&r); err != nil {
			t.Fatal(err)
		}
	}
	h.Forget()
	_, foreign, err := (route.Ops{}).Observe(t.Context(), h, []route.Route{want})
	if err != nil {
		t.Fatal(err)
	}
	conflicts := (route.Ops{}).Conflicts(resource.State{want.ID(): want}, foreign)
	if len(conflicts) != 1 || conflicts[0].Foreign != "blackhole default proto static" {
		t.Errorf("conflicts %+v, want the default route's alone", conflicts)
	}
}
