package host_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/internal/netns"
)

// What our own parser reads is what the netlink library reads.
func TestTablesAgreeWithTheLibrary(t *testing.T) {
	h := kindtest.Root(t)
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	lib := ns.Handle()
	eth0, err := ns.Link("eth0")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			t.Fatal(err)
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := lib.AddrAdd(eth0, addr); err != nil {
			t.Fatal(err)
		}
	}
	for _, r := range []netlink.Route{
		{Dst: cidr("198.51.100.0/24"), Gw: net.ParseIP("192.0.2.254"), Priority: 77, Protocol: 112},
		{Dst: cidr("203.0.113.0/24"), Type: unix.RTN_UNREACHABLE, Table: 112},
		{Dst: cidr("2001:db8:1::/48"), LinkIndex: eth0.Index, Priority: 1024},
		{Dst: cidr("0.0.0.0/0"), Gw: net.ParseIP("192.0.2.254")},
	} {
		if err := lib.RouteAdd(&r); err != nil {
			t.Fatal(err)
		}
	}
	rule := netlink.NewRule()
	rule.Priority, rule.Table, rule.Protocol, rule.Src, rule.Family = 1000, 112, 112, cidr("192.0.2.7/32"), unix.AF_INET
	if err := lib.RuleAdd(rule); err != nil {
		t.Fatal(err)
	}
	if err := lib.NeighAdd(&netlink.Neigh{LinkIndex: eth0.Index, State: unix.NUD_PERMANENT, IP: net.ParseIP("192.0.2.9"),
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}}); err != nil {
		t.Fatal(err)
	}
	h.Forget()

	wantLinks, err := lib.LinkList()
	links, err2 := ns.Links()
	same(t, "links", wantLinks, links, errors.Join(err, err2), func(l netlink.Link) string {
		a := l.Attrs()
		return fmt.Sprint(a.Name, a.Index, a.MTU, a.HardwareAddr, a.ParentIndex, a.NetNsID, a.Group, a.RawFlags, a.TxQLen, l.Type())
	}, func(l *host.Link) string {
		return fmt.Sprint(l.Name, l.Index, l.MTU, l.HardwareAddr, l.ParentIndex, l.NetNsID, l.Group, l.RawFlags, l.TxQLen, l.Type())
	})
	wantAddrs, err := lib.AddrList(nil, netlink.FAMILY_ALL)
	addrs, err2 := ns.Addrs()
	addr := func(a netlink.Addr) string {
		return fmt.Sprint(a.IPNet, a.LinkIndex, a.Flags, a.Scope, a.Peer, a.Label, a.Protocol)
	}
	same(t, "addresses", wantAddrs, addrs, errors.Join(err, err2), addr, addr)
	wantRoutes, err := lib.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	routes, err2 := ns.Routes()
	route := func(r netlink.Route) string {
		return fmt.Sprint(r.Dst, r.Gw, r.LinkIndex, r.Priority, r.Table, r.Type, r.Protocol, r.Scope, r.Src, r.Flags, r.Family)
	}
	same(t, "routes", wantRoutes, routes, errors.Join(err, err2), route, route)
	wantRules, err := lib.RuleList(netlink.FAMILY_ALL)
	wantRules = slices.DeleteFunc(wantRules, func(r netlink.Rule) bool { return r.Family >= 128 }) // multicast routing's own
	rules, err2 := ns.Rules()
	text := func(r netlink.Rule) string {
		return fmt.Sprint(r.Priority, r.Src, r.Dst, r.Table, r.Protocol, r.Family, r.Mark)
	}
	same(t, "rules", wantRules, rules, errors.Join(err, err2), text, text)
	wantNeighs, err := lib.NeighList(0, 0)
	neighs, err2 := ns.Neighs()
	neigh := func(n netlink.Neigh) string {
		return fmt.Sprint(n.IP, n.HardwareAddr, n.LinkIndex, n.State, n.Flags, n.Family)
	}
	same(t, "neighbours", wantNeighs, neighs, errors.Join(err, err2), neigh, func(n host.Neigh) string { return neigh(n.Neigh) })
}

func same[A, B any](t *testing.T, what string, want []A, got []B, err error, a func(A) string, b func(B) string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	var w, g []string
	for _, x := range want {
		w = append(w, a(x))
	}
	for _, x := range got {
		g = append(g, b(x))
	}
	slices.Sort(w)
	slices.Sort(g)
	if len(w) == 0 || !slices.Equal(w, g) {
		t.Errorf("%s: the library reads\n%q\nwe read\n%q", what, w, g)
	}
}

func cidr(s string) *net.IPNet {
	_, n, err := net.ParseCIDR(s)
	if err != nil {
		panic(err)
	}
	return n
}

// A dump is kept until Forget; a lookup by name is live.
func TestForget(t *testing.T) {
	h := kindtest.Root(t)
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	before, err := ns.Links()
	if err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "new"
	if err := ns.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	if cached, _ := ns.Links(); len(cached) != len(before) {
		t.Error("the dump wasn't kept")
	}
	if _, err := ns.LinkIndex("new"); err != nil {
		t.Error(err)
	}
	if _, err := ns.LinkIndex("none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("for a missing link: %v", err)
	}
	h.Forget()
	if again, _ := ns.Links(); len(again) != len(before)+1 {
		t.Error("the dump wasn't read again")
	}
}

// Do runs inside the namespace, passes errors and panics on, and leaves every thread where it was.
func TestDo(t *testing.T) {
	h := kindtest.Root(t)
	kindtest.Pod(t, h, "web")
	ns, err := h.NS("web")
	if err != nil {
		t.Fatal(err)
	}
	here, err := netns.Stat("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		var in netns.ID
		wrong := errors.New("wrong")
		if err := ns.Do(func() (err error) {
			in, err = netns.Stat("/proc/thread-self/ns/net")
			return errors.Join(err, wrong)
		}); !errors.Is(err, wrong) {
			t.Fatal(err)
		}
		if in != ns.ID {
			t.Fatalf("ran in %s, want %s", in, ns.ID)
		}
		if now, err := netns.Stat("/proc/thread-self/ns/net"); err != nil || now != here {
			t.Fatalf("this thread is in %s now, was in %s", now, here)
		}
	}
	defer func() {
		if recover() != "stopped" {
			t.Error("the panic got lost")
		}
	}()
	_ = ns.Do(func() error { panic("stopped") })
}

// Files, FIFOs, folders and namespaces of others in the folder of namespaces are listed as somebody else's or left out.
func TestForeignNames(t *testing.T) {
	h := kindtest.Root(t)
	kindtest.Pod(t, h, "web")
	if err := os.WriteFile(filepath.Join(h.NetNSDir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(h.NetNSDir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Forget()
	names, err := h.Namespaces(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"", "web"}; !slices.Equal(names, want) {
		t.Errorf("namespaces are %q, want %q", names, want)
	}
	for _, name := range []string{"file", "fifo", "none"} {
		if _, err := h.NS(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("namespace %s: %v", name, err)
		}
	}
	// Another node sees our pod as ours, not as its own.
	o := h.Options
	o.Node, o.RunDir = "other", filepath.Join(t.TempDir(), "other")
	other := kindtest.Open(t, o)
	entries, err := other.Entries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(entries, func(e host.Entry) bool { return e.Name == "web" })
	if i < 0 || entries[i].Mine() || entries[i].Owner != "plumb node "+kindtest.Node+"'s" {
		t.Errorf("another node sees %+v", entries)
	}
	if err := os.Remove(filepath.Join(h.NetNSDir, "fifo")); err != nil {
		t.Fatal(err)
	}
}

// A dropped namespace has no socket of ours left that would keep it alive.
func TestDropLetsGo(t *testing.T) {
	h := kindtest.Root(t)
	kindtest.Pod(t, h, "web")
	ns, err := h.NS("web")
	if err != nil {
		t.Fatal(err)
	}
	ns.Handle()
	if err := ns.Do(func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	h.Drop("web")
	if _, err := ns.Links(); err == nil {
		ns.Forget()
		if _, err := ns.Links(); err == nil {
			t.Error("the handle still works")
		}
	}
	// What else could hold it: a thread that stayed inside.
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if id, err := netns.Stat(task); err == nil && id == ns.ID {
			t.Errorf("%s is still inside", task)
		}
	}
}
