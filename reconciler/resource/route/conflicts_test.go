package route

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/reconciler/resource"
)

func TestConflicts(t *testing.T) {
	pods4 := Route{Dst: netip.MustParsePrefix("10.0.0.0/24"), Table: MainTable, Metric: 4000, Unreachable: true, PodPrefix: true}
	pods6 := Route{Dst: netip.MustParsePrefix("fd00:10::/64"), Table: MainTable, Metric: 4000, Unreachable: true, PodPrefix: true}
	web := Route{Dst: netip.MustParsePrefix("10.0.0.10/32"), Table: MainTable, Dev: "plweb"}
	adopted := Route{NetNS: "db", Dst: netip.MustParsePrefix("0.0.0.0/0"), Table: resource.Table, Dev: "eth1"}
	desired := resource.State{}
	if err := desired.Add(pods4, pods6, web, adopted); err != nil {
		t.Fatal(err)
	}
	r := func(netns, dst string, table, metric, proto int, dev string) Route {
		return Route{NetNS: netns, Dst: netip.MustParsePrefix(dst), Table: table, Metric: metric, Protocol: proto, Dev: dev, Type: "unicast"}
	}
	connected := func(dst string, proto, metric int) Route {
		c := r("", dst, MainTable, metric, proto, "eth0")
		c.Connected = true
		return c
	}
	via := func(f Route, gw string) Route { f.Gateway = netip.MustParseAddr(gw); return f }
	typed := func(f Route, typ string) Route { f.Type = typ; return f }

	for _, c := range []struct {
		name    string
		foreign Route
		want    string // ID | object | owner; empty: no conflict
	}{
		{"same prefix, lower metric", via(r("", "10.0.0.0/24", MainTable, 100, 4, "eth0"), "192.168.31.1"),
			"route 10.0.0.0/24 metric 4000 | 10.0.0.0/24 via 192.168.31.1 dev eth0 proto static metric 100 | protocol static"},
		{"equal key", r("", "10.0.0.10/32", MainTable, 0, 3, "tun0"),
			"route 10.0.0.10/32 | 10.0.0.10 dev tun0 proto boot | protocol boot"},
		{"same prefix, higher metric", r("", "10.0.0.0/24", MainTable, 5000, 4, "eth0"), ""},
		{"same prefix in another table", r("", "10.0.0.0/24", 100, 0, 4, "eth0"), ""},
		{"longer prefix", via(r("", "10.0.0.64/26", MainTable, 20, 12, "eth0"), "192.168.31.9"),
			"route 10.0.0.0/24 metric 4000 | 10.0.0.64/26 via 192.168.31.9 dev eth0 proto bird metric 20 | protocol bird"},
		{"longer prefix in another table", r("", "10.0.0.7/32", 100, 0, 11, "eth0"),
			"route 10.0.0.0/24 metric 4000 | 10.0.0.7 dev eth0 table 100 proto zebra | protocol zebra"},
		{"longer prefix, blackhole", typed(r("", "10.0.0.128/25", MainTable, 0, 4, ""), "blackhole"),
			"route 10.0.0.0/24 metric 4000 | blackhole 10.0.0.128/25 proto static | protocol static"},
		{"route that makes addresses local", typed(r("", "10.0.0.128/25", 255, 0, 3, "lo"), "local"),
			"route 10.0.0.0/24 metric 4000 | local 10.0.0.128/25 dev lo table local proto boot | protocol boot"},
		{"local route of an address, which kind addr reports", typed(r("", "10.0.0.7/32", 255, 0, 2, "eth0"), "local"), ""},
		{"uplink inside the range", connected("10.0.0.0/25", 2, 0),
			"route 10.0.0.0/24 metric 4000 | 10.0.0.0/25 dev eth0 proto kernel scope link | protocol kernel"},
		{"uplink around the range", connected("10.0.0.0/8", 2, 0),
			"route 10.0.0.0/24 metric 4000 | 10.0.0.0/8 dev eth0 proto kernel scope link | protocol kernel"},
		{"uplink announced by a router", connected("fd00:10::/48", 9, 256),
			"route fd00:10::/64 metric 4000 | fd00:10::/48 dev eth0 proto ra metric 256 | protocol ra"},
		{"uplink elsewhere", connected("192.168.31.0/24", 2, 0), ""},
		{"shorter prefix through a gateway", via(r("", "10.0.0.0/8", MainTable, 0, 16, "eth0"), "192.168.31.1"), ""},
		{"default route", via(r("", "0.0.0.0/0", MainTable, 0, 16, "eth0"), "192.168.31.1"), ""},
		{"another plumb node", r("", "10.0.0.9/32", MainTable, 0, resource.Protocol, "plx"),
			"route 10.0.0.0/24 metric 4000 | 10.0.0.9 dev plx proto 112 | protocol 112 (plumb, another node)"},
		{"default of an adopted namespace, main table", r("db", "0.0.0.0/0", MainTable, 0, 3, "eth0"), ""},
		{"default of an adopted namespace, plumb's table", r("db", "0.0.0.0/0", resource.Table, 0, 3, "eth0"),
			"route db/default table 112 | default dev eth0 table 112 proto boot | protocol boot"},
		{"pod range in an adopted namespace", r("db", "10.0.0.64/26", MainTable, 0, 3, "eth0"), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, x := range (Ops{}).Conflicts(desired, []Route{c.foreign}) {
				got = append(got, fmt.Sprintf("%s | %s | %s", x.ID, x.Foreign, x.Owner))
				if x.Fix == "" {
					t.Error("no way out is named")
				}
			}
			if diff := cmp.Diff(c.want, strings.Join(got, "\n")); diff != "" {
				t.Errorf("conflicts (-want +got):\n%s", diff)
			}
		})
	}
}

// The text of the way out is copied into a shell by people: it must be a command that hits exactly the route.
func TestConflictFix(t *testing.T) {
	desired := resource.State{}
	if err := desired.Add(Route{Dst: netip.MustParsePrefix("fd00:10::/64"), Table: MainTable, Metric: 4000, Unreachable: true, PodPrefix: true}); err != nil {
		t.Fatal(err)
	}
	foreign := Route{Dst: netip.MustParsePrefix("fd00:10::7/128"), Table: 100, Metric: 1024, Protocol: 4, Type: "unicast", Dev: "eth0"}
	got := (Ops{}).Conflicts(desired, []Route{foreign})[0].Fix
	want := "it leads addresses of the pod range fd00:10::/64 elsewhere: take it away (ip -6 route del fd00:10::7/128 table 100 metric 1024), or change the pods' addresses"
	if got != want {
		t.Errorf("fix:\n got %s\nwant %s", got, want)
	}
}

func TestDiff(t *testing.T) {
	gw, src := netip.MustParseAddr("169.254.10.24"), netip.MustParseAddr("10.0.0.1")
	base := Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Table: MainTable, Dev: "eth0", Gateway: gw, OnLink: true}
	with := func(f func(*Route)) Route { r := base; f(&r); return r }
	for _, c := range []struct {
		name     string
		observed Route
		want     string
		inPlace  bool
	}{
		{"equal", base, "", true},
		{"device", with(func(r *Route) { r.Dev = "eth1" }), "dev: eth1 -> eth0", true},
		{"gateway", with(func(r *Route) { r.Gateway = netip.Addr{} }), "via:  -> 169.254.10.24", true},
		{"onlink", with(func(r *Route) { r.OnLink = false }), "onlink: false -> true", true},
		{"source", with(func(r *Route) { r.Src = src }), "src: 10.0.0.1 -> ", true},
		{"type", Route{Dst: base.Dst, Table: MainTable, Unreachable: true},
			"type: unreachable -> unicast, dev:  -> eth0, via:  -> 169.254.10.24, onlink: false -> true", true},
		{"a second hop", with(func(r *Route) { r.Trouble = "2 next hops" }), "next hops: 2 next hops -> ", false},
	} {
		fields, inPlace := (Ops{}).Diff(c.observed, base)
		var got []string
		for _, f := range fields {
			got = append(got, fmt.Sprintf("%s: %s -> %s", f.Name, f.Before, f.After))
		}
		if s := strings.Join(got, ", "); s != c.want || inPlace != c.inPlace {
			t.Errorf("%s: %q in place %v, want %q %v", c.name, s, inPlace, c.want, c.inPlace)
		}
	}
}
