package sysctl_test

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/sysctl"
)

// file is the path of a key without dots inside its parts.
func file(key string) string { return "/proc/sys/" + strings.ReplaceAll(key, ".", "/") }

func set(t *testing.T, h *host.Host, netns, key, value string) {
	t.Helper()
	ns, err := h.NS(netns)
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() error { return os.WriteFile(file(key), []byte(value), 0) }); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, h *host.Host, netns, key string) (value string) {
	t.Helper()
	ns, err := h.NS(netns)
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() error {
		data, err := os.ReadFile(file(key))
		value = strings.TrimSpace(string(data))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return value
}

// forwarding lists the settings of a namespace that forwarding touches.
func forwarding(t *testing.T, h *host.Host) string {
	t.Helper()
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	err = ns.Do(func() error {
		for _, glob := range []string{"ipv4/ip_forward", "ipv4/conf/*/forwarding", "ipv4/conf/*/accept_redirects", "ipv6/conf/*/forwarding"} {
			files, err := filepath.Glob("/proc/sys/net/" + glob)
			if err != nil {
				return err
			}
			for _, f := range files {
				data, err := os.ReadFile(f)
				if err != nil {
					return err
				}
				b.WriteString(strings.TrimPrefix(f, "/proc/sys/net/") + " = " + string(data))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func records(t *testing.T, h *host.Host) (names []string) {
	t.Helper()
	files, err := filepath.Glob(h.Path("prior", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		names = append(names, strings.TrimPrefix(f, h.Path("prior")+"/"))
	}
	return names
}

func update(t *testing.T, h *host.Host, s sysctl.Sysctl) {
	t.Helper()
	if err := (sysctl.Ops{}).Update(t.Context(), h, sysctl.Sysctl{}, s); err != nil {
		t.Fatal(err)
	}
}

func TestKind(t *testing.T) {
	kindtest.Run(t, kindtest.Kind[sysctl.Sysctl]{
		Ops: sysctl.Ops{},
		Samples: []sysctl.Sysctl{
			{Key: "net.ipv4.ip_forward", Value: "1"}, {Key: "net.ipv6.conf.all.forwarding", Value: "1"},
			{Key: "net.ipv4.conf.eth0.rp_filter", Value: "2"}, {Key: "net.ipv4.conf.eth0.rp_filter", Value: "1"},
			{Key: "net.ipv4.tcp_rmem", Value: "4096 131072 67108864", AtLeast: true},
			{Key: "net.ipv4.ip_local_port_range", Value: "20000 30000"}, {Key: "net.ipv4.conf.eth9/5.rp_filter", Value: "2"},
		},
		Setup: func(t *testing.T, h *host.Host) {
			ns, err := h.NS("")
			if err != nil {
				t.Fatal(err)
			}
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "eth9.5"
			if err := ns.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
				t.Fatal(err)
			}
			for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv4.conf.eth0.rp_filter"} {
				set(t, h, "", key, "0")
			}
		},
	})
}

// Forwarding takes other settings along. All of them come back, whatever they were.
func TestFollowers(t *testing.T) {
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding", "net.ipv6.conf.all.forwarding"} {
		t.Run(key, func(t *testing.T) {
			h := kindtest.Root(t)
			set(t, h, "", key, "0")
			set(t, h, "", "net.ipv4.conf.all.accept_redirects", "0")
			set(t, h, "", "net.ipv4.conf.eth0.forwarding", "1")
			set(t, h, "", "net.ipv6.conf.eth0.forwarding", "1")
			before := forwarding(t, h)
			s := sysctl.Sysctl{Key: key, Value: "1"}
			update(t, h, s)
			if forwarding(t, h) == before {
				t.Fatal("nothing changed")
			}
			if err := (sysctl.Ops{}).Delete(t.Context(), h, s); err != nil {
				t.Fatal(err)
			}
			if after := forwarding(t, h); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
			if r := records(t, h); len(r) != 0 {
				t.Errorf("records left: %v", r)
			}
		})
	}
}

// A follower that somebody else changed meanwhile keeps that value, though restoring its master changes it.
func TestFollowerOfSomebodyElse(t *testing.T) {
	h := kindtest.Root(t)
	set(t, h, "", "net.ipv4.ip_forward", "0")
	s := sysctl.Sysctl{Key: "net.ipv4.ip_forward", Value: "1"}
	update(t, h, s)
	set(t, h, "", "net.ipv4.conf.all.accept_redirects", "1")
	set(t, h, "", "net.ipv4.conf.eth0.forwarding", "0")
	set(t, h, "", "net.ipv4.conf.eth0.forwarding", "1") // and back: it looks as we left it, so it is restored
	if err := (sysctl.Ops{}).Delete(t.Context(), h, s); err != nil {
		t.Fatal(err)
	}
	if v := get(t, h, "", "net.ipv4.conf.all.accept_redirects"); v != "1" {
		t.Errorf("accept_redirects is %s", v)
	}
	if v := get(t, h, "", "net.ipv4.conf.eth0.forwarding"); v != "0" {
		t.Errorf("forwarding of eth0 is %s", v)
	}
}

// A value that isn't ours any more stays, and that is said.
func TestValueOfSomebodyElse(t *testing.T) {
	h := kindtest.Root(t)
	set(t, h, "", "net.ipv4.conf.eth0.rp_filter", "0")
	s := sysctl.Sysctl{Key: "net.ipv4.conf.eth0.rp_filter", Value: "2"}
	update(t, h, s)
	set(t, h, "", s.Key, "1")
	if err := (sysctl.Ops{}).Delete(t.Context(), h, s); err != nil {
		t.Fatal(err)
	}
	if v := get(t, h, "", s.Key); v != "1" {
		t.Errorf("the value is %s", v)
	}
	if w := h.Warnings(); len(w) != 1 || !strings.Contains(w[0], s.Key) {
		t.Errorf("warnings: %q", w)
	}
	if r := records(t, h); len(r) != 0 {
		t.Errorf("records left: %v", r)
	}
}

// The value from before the first change counts, however often plumb's own value changes.
func TestFirstPrior(t *testing.T) {
	h := kindtest.Root(t)
	set(t, h, "", "net.ipv4.conf.eth0.rp_filter", "0")
	s := sysctl.Sysctl{Key: "net.ipv4.conf.eth0.rp_filter", Value: "2"}
	update(t, h, s)
	s.Value = "1"
	update(t, h, s)
	set(t, h, "", s.Key, "2") // drift, healed
	update(t, h, s)
	if err := (sysctl.Ops{}).Delete(t.Context(), h, s); err != nil {
		t.Fatal(err)
	}
	if v := get(t, h, "", s.Key); v != "0" {
		t.Errorf("the value is %s", v)
	}
}

// A change that was cut off between the record and the setting is undone all the same.
func TestCutOffChange(t *testing.T) {
	h := kindtest.Root(t)
	set(t, h, "", "net.ipv4.conf.eth0.rp_filter", "0")
	s := sysctl.Sysctl{Key: "net.ipv4.conf.eth0.rp_filter", Value: "2"}
	update(t, h, s)
	again, err := host.Open(h.Options)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	func() {
		defer func() { _ = recover() }()
		again.OnWrite = func(n int, _ string) {
			if n == 2 {
				panic("killed")
			}
		}
		update(t, again, sysctl.Sysctl{Key: s.Key, Value: "1"})
	}()
	if v := get(t, h, "", s.Key); v != "2" {
		t.Fatalf("the kill came too late: the value is %s", v)
	}
	if err := (sysctl.Ops{}).Delete(t.Context(), h, s); err != nil {
		t.Fatal(err)
	}
	if v := get(t, h, "", s.Key); v != "0" {
		t.Errorf("the value is %s", v)
	}
}

// A namespace that was made with what plumb gave the root namespace gives that back too; one that has it by itself doesn't.
func TestInherited(t *testing.T) {
	const key = "net.ipv4.tcp_congestion_control"
	allowed := strings.Fields(get(t, kindtest.Root(t), "", "net.ipv4.tcp_allowed_congestion_control"))
	i := slices.IndexFunc(allowed, func(name string) bool { return name != "reno" })
	if i < 0 {
		t.Fatalf("namespaces may have %s alone, and this test needs two", allowed)
	}
	other := allowed[i]
	for ours, want := range map[string]string{"reno": other, other: "reno"} {
		h := kindtest.Root(t)
		kindtest.Pod(t, h, "web")
		set(t, h, "", key, other)
		update(t, h, sysctl.Sysctl{Key: key, Value: ours})
		set(t, h, "web", key, "reno")
		s := sysctl.Sysctl{NetNS: "web", Key: key, Value: "reno"}
		if err := (sysctl.Ops{}).Create(t.Context(), h, s); err != nil {
			t.Fatal(err)
		}
		if err := (sysctl.Ops{}).Delete(t.Context(), h, s); err != nil {
			t.Fatal(err)
		}
		if v := get(t, h, "web", key); v != want {
			t.Errorf("the node has %s and the pod comes back to %s, want %s", ours, v, want)
		}
	}
}

// What is larger already stays: all of it, or those numbers that are. Whatever was there comes back.
func TestAtLeast(t *testing.T) {
	const key = "net.ipv4.tcp_rmem"
	for was, is := range map[string]string{
		"4096 131072 6291456":  "4096 131072 16777216",
		"8192 65536 6291456":   "8192 131072 16777216",
		"4096 131072 33554432": "4096 131072 33554432",
	} {
		h := kindtest.Root(t)
		set(t, h, "", key, was)
		was = get(t, h, "", key)
		s := sysctl.Sysctl{Key: key, Value: "4096 131072 16777216", AtLeast: true}
		update(t, h, s)
		if v := strings.Join(strings.Fields(get(t, h, "", key)), " "); v != is {
			t.Errorf("%q became %q", was, v)
		}
		owned, _, err := (sysctl.Ops{}).Observe(t.Context(), h, []sysctl.Sysctl{s})
		if err != nil || len(owned) != 1 {
			t.Fatalf("observed %v, %v", owned, err)
		}
		if fields, _ := (sysctl.Ops{}).Diff(owned[0], s); len(fields) != 0 {
			t.Errorf("after %q it differs: %v", was, fields)
		}
		if err := (sysctl.Ops{}).Delete(t.Context(), h, s); err != nil {
			t.Fatal(err)
		}
		if v := get(t, h, "", key); v != was {
			t.Errorf("%q came back as %q", was, v)
		}
		if r := records(t, h); len(r) != 0 {
			t.Errorf("records left: %v", r)
		}
	}
}

// A record whose namespace or device is gone goes without a word; one that is wanted again starts afresh.
func TestGone(t *testing.T) {
	h := kindtest.Root(t)
	kindtest.Pod(t, h, "web")
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "pl0"
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := ns.Handle().LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	inPod := sysctl.Sysctl{NetNS: "gone", Key: "net.ipv4.tcp_keepalive_time", Value: "60"}
	onDev := sysctl.Sysctl{Key: "net.ipv4.conf.pl0.rp_filter", Value: "2"}
	inPod.NetNS = "web"
	update(t, h, inPod)
	update(t, h, onDev)
	if err := ns.Handle().LinkDel(bridge); err != nil {
		t.Fatal(err)
	}
	// A record of a pod that isn't there.
	if err := os.Rename(h.Path("prior", "web"), h.Path("prior", "gone")); err != nil {
		t.Fatal(err)
	}
	h.Forget()
	owned, _, err := (sysctl.Ops{}).Observe(t.Context(), h, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(owned) != 2 {
		t.Errorf("owned: %v", owned)
	}
	for _, s := range owned {
		if err := (sysctl.Ops{}).Delete(t.Context(), h, s); err != nil {
			t.Error(err)
		}
	}
	if w := h.Warnings(); len(w) != 0 {
		t.Errorf("warnings: %q", w)
	}
	if r := records(t, h); len(r) != 0 {
		t.Errorf("records left: %v", r)
	}
}

func TestErrors(t *testing.T) {
	h := kindtest.Root(t)
	for _, c := range []struct{ key, value, want string }{
		{"net.ipv4.no_such_thing", "1", "this kernel has no setting net.ipv4.no_such_thing"},
		{"net.ipv4.conf.all.rp_filter", "purple", `set net.ipv4.conf.all.rp_filter to "purple"`},
		{"net.ipv4.//.//.//.etc.passwd", "1", "is not the name of a kernel setting"},
		{"net.ipv4.tcp_fin_timeout", "0x10", `the kernel made "16" of it`},
	} {
		err := (sysctl.Ops{}).Create(t.Context(), h, sysctl.Sysctl{Key: c.key, Value: c.value})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.key, err, c.want)
		}
	}
}

func TestOnlyFrom(t *testing.T) {
	h := kindtest.Root(t)
	s := sysctl.Sysctl{Key: "net.ipv6.conf.eth0.accept_ra", Value: "2", OnlyFrom: "1"}
	set(t, h, "", s.Key, "0")
	owned, _, err := (sysctl.Ops{}).Observe(t.Context(), h, []sysctl.Sysctl{s})
	if err != nil {
		t.Fatal(err)
	}
	if fields, _ := (sysctl.Ops{}).Diff(owned[0], s); len(fields) != 0 {
		t.Errorf("0 differs: %v", fields)
	}
	if err := (sysctl.Ops{}).Create(t.Context(), h, s); err != nil {
		t.Fatal(err)
	}
	if v := get(t, h, "", s.Key); v != "0" || len(records(t, h)) != 0 {
		t.Errorf("the value became %s, records %v", v, records(t, h))
	}
	set(t, h, "", s.Key, "1")
	update(t, h, s)
	if v := get(t, h, "", s.Key); v != "2" {
		t.Errorf("the value is %s", v)
	}
}

// IPv6 forwarding deletes a default route learnt from a router, at once and for good, unless accept_ra is 2.
func TestSevers(t *testing.T) {
	h := kindtest.Root(t)
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	index, err := ns.LinkIndex("eth0")
	if err != nil {
		t.Fatal(err)
	}
	forward := sysctl.Sysctl{Key: "net.ipv6.conf.all.forwarding", Value: "1"}
	accept := sysctl.Sysctl{Key: "net.ipv6.conf.eth0.accept_ra", Value: "2", OnlyFrom: "1"}
	set(t, h, "", forward.Key, "0")
	set(t, h, "", accept.Key, "1")
	class := func(wanted ...sysctl.Sysctl) resource.Disruption {
		t.Helper()
		h.Forget()
		owned, _, err := (sysctl.Ops{}).Observe(t.Context(), h, wanted)
		if err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(owned, func(s sysctl.Sysctl) bool { return s.Key == forward.Key })
		return forward.Disruption(resource.Update, owned[i])
	}
	if c := class(forward); c != resource.DisruptsNothing {
		t.Errorf("without a route: %s", c)
	}
	err = ns.Handle().RouteAdd(&netlink.Route{LinkIndex: index, Protocol: unix.RTPROT_RA, Gw: net.ParseIP("fe80::1"), Flags: unix.RTNH_F_ONLINK,
		Dst: &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}})
	if err != nil {
		t.Fatal(err)
	}
	if c := class(forward); c != resource.DisruptsSession {
		t.Errorf("with a route: %s", c)
	}
	if c := class(forward, accept); c != resource.DisruptsNothing {
		t.Errorf("with accept_ra set along: %s", c)
	}
	set(t, h, "", accept.Key, "2")
	if c := class(forward); c != resource.DisruptsNothing {
		t.Errorf("with accept_ra 2 already: %s", c)
	}
}

// A setting that the kernel doesn't have is found before anything is written, also of pods and devices that aren't there.
func TestUnknown(t *testing.T) {
	h := kindtest.Root(t)
	const from = "pods.web.sysctls.x"
	for _, c := range []struct {
		netns, key string
		known      bool
	}{
		{"", "net.ipv4.ip_forward", true},
		{"", "net.ipv4.no_such_thing", false},
		{"", "net.ipv6.conf.absent.accept_ra", true},
		{"", "net.ipv6.conf.absent.no_such_thing", false},
		{"web", "net.ipv4.tcp_keepalive_time", true},
		{"web", "net.ipv6.neigh.eth0.proxy_delay", true},
		{"web", "net.ipv4.tcp_keepalive_tim", false},
		{"web", "net.ipv4.conf.eth0.rp_filtr", false},
		{"web", "kernel.no_such_thing", false},
	} {
		_, _, err := (sysctl.Ops{}).Observe(t.Context(), h, []sysctl.Sysctl{{NetNS: c.netns, Key: c.key, Value: "1", From: from}})
		if (err == nil) != c.known {
			t.Errorf("%s %s: %v", c.netns, c.key, err)
		}
		if err != nil && !strings.Contains(err.Error(), from+": this kernel has no setting "+c.key) {
			t.Errorf("%s %s: %v", c.netns, c.key, err)
		}
	}
	if h.Writes() != 0 {
		t.Errorf("%d writes", h.Writes())
	}
}
