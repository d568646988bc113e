package addr_test

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/addr"
)

func at(netns, prefix, dev string) addr.Addr {
	return addr.Addr{NetNS: netns, Dev: dev, Prefix: netip.MustParsePrefix(prefix)}
}

// plant adds an address as somebody else would.
func plant(t *testing.T, h *host.Host, netns, prefix, dev string, flags, protocol int) {
	t.Helper()
	ns, err := h.NS(netns)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ns.Link(dev)
	if err != nil {
		t.Fatal(err)
	}
	p := netip.MustParsePrefix(prefix)
	n := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
	if err := ns.Handle().AddrAdd(l, &netlink.Addr{IPNet: n, Flags: flags, Protocol: protocol}); err != nil {
		t.Fatal(err)
	}
	h.Forget()
}

// addresses lists what a device has, with "secondary" behind those that are.
func addresses(t *testing.T, h *host.Host, dev string) (list []string) {
	t.Helper()
	h.Forget()
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	l, err := ns.Link(dev)
	if err != nil {
		t.Fatal(err)
	}
	all, err := ns.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		p := host.Prefix(a.IPNet)
		if a.LinkIndex != l.Index || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		s := p.String()
		if p.Addr().Is4() && a.Flags&unix.IFA_F_SECONDARY != 0 {
			s += " secondary"
		}
		list = append(list, s)
	}
	return list
}

// ours makes a device that carries plumb's mark.
func ours(t *testing.T, h *host.Host, name string) {
	t.Helper()
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Group = name, resource.Group
	if err := ns.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	l, err := ns.Link(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Handle().LinkSetUp(l); err != nil {
		t.Fatal(err)
	}
	h.Forget()
}

// storesProtocol reports whether this kernel keeps who made an address.
func storesProtocol(t *testing.T, h *host.Host) bool {
	t.Helper()
	h.Forget()
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	all, err := ns.Addrs()
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(all, func(a netlink.Addr) bool { return a.Protocol != 0 })
}

func TestKind(t *testing.T) {
	kindtest.Run(t, kindtest.Kind[addr.Addr]{
		Ops: addr.Ops{},
		Samples: []addr.Addr{
			at("", "10.0.0.1/32", "pl0"), at("", "10.0.0.1/24", "pl0"), at("", "10.0.0.2/24", "pl0"),
			at("", "fd00:10::1/128", "pl0"), at("", "fd00:10::1/64", "pl0"), at("", "fe80::1/64", "pl0"),
		},
		Setup: func(t *testing.T, h *host.Host) { ours(t, h, "pl0") },
	})
}

func TestForeign(t *testing.T) {
	h := kindtest.Root(t)
	for _, prefix := range []string{"10.0.0.1/24", "fd00:10::1/64"} {
		plant(t, h, "", prefix, "eth0", 0, 0)
	}
	wanted := []addr.Addr{at("", "10.0.0.1/24", "eth0"), at("web", "fd00:10::1/128", "eth0")}
	owned, foreign, err := (addr.Ops{}).Observe(t.Context(), h, wanted)
	if err != nil {
		t.Fatal(err)
	}
	if len(owned) != 0 {
		t.Errorf("taken for ours: %v", owned)
	}
	desired := resource.State{}
	if err := desired.Add(wanted[0], wanted[1]); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range (addr.Ops{}).Conflicts(desired, foreign) {
		got = append(got, c.ID.String()+": "+c.Foreign)
	}
	slices.Sort(got)
	want := []string{"addr 10.0.0.1/24 dev eth0: address 10.0.0.1/24 dev eth0", "addr web/fd00:10::1/128 dev eth0: address fd00:10::1/64 dev eth0"}
	if !slices.Equal(got, want) {
		t.Errorf("conflicts %q, want %q", got, want)
	}
	if err := (addr.Ops{}).Create(t.Context(), h, wanted[0]); err == nil {
		t.Error("create succeeds over a foreign address")
	}
	for _, a := range []addr.Addr{at("", "192.0.2.1/24", "eth0"), at("", "fd00:10::1/80", "eth0")} {
		if err := (addr.Ops{}).Delete(t.Context(), h, a); err != nil {
			t.Error(err)
		}
	}
	if got := addresses(t, h, "eth0"); len(got) != 2 {
		t.Errorf("addresses of eth0: %v", got)
	}
}

// Somebody's address on a device of ours in the root namespace isn't ours, where the kernel says whose it is.
func TestForeignOnOurDevice(t *testing.T) {
	h := kindtest.Root(t)
	ours(t, h, "pl0")
	plant(t, h, "", "10.0.0.7/24", "pl0", 0, 0)
	owned, foreign, err := (addr.Ops{}).Observe(t.Context(), h, nil)
	if err != nil {
		t.Fatal(err)
	}
	if storesProtocol(t, h) {
		if len(owned) != 0 || len(foreign) != 1 {
			t.Errorf("owned %v, foreign %v", owned, foreign)
		}
	} else if len(owned) != 1 {
		t.Errorf("owned %v, foreign %v", owned, foreign)
	}
}

// In our own namespace what stands on a pod's device is tidied, but not what the kernel or a DHCP client put there, nor
// what is on a device that somebody else made.
func TestInsidePod(t *testing.T) {
	h := kindtest.Root(t)
	kindtest.Pod(t, h, "web")
	ns, err := h.NS("web")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"eth0", "tun0"} {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if err := ns.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			t.Fatal(err)
		}
	}
	wanted := at("web", "10.0.0.10/32", "eth0")
	if err := (addr.Ops{}).Create(t.Context(), h, wanted); err != nil {
		t.Fatal(err)
	}
	plant(t, h, "web", "192.0.2.1/24", "eth0", 0, 0)
	plant(t, h, "web", "192.0.2.2/24", "tun0", 0, 0)
	plant(t, h, "web", "fe80::77/64", "eth0", unix.IFA_F_NODAD, 0)
	owned, foreign, err := (addr.Ops{}).Observe(t.Context(), h, []addr.Addr{wanted})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range owned {
		got = append(got, a.Prefix.String())
	}
	slices.Sort(got)
	if want := []string{"10.0.0.10/32", "192.0.2.1/24"}; !slices.Equal(got, want) {
		t.Errorf("owned %v, want %v", got, want)
	}
	if len(foreign) != 0 {
		t.Errorf("foreign in our own namespace: %v", foreign)
	}
}

// Deleting the first address of a network must not take the others along.
func TestSecondary(t *testing.T) {
	h := kindtest.Root(t)
	ours(t, h, "pl0")
	for _, prefix := range []string{"10.1.0.1/24", "10.1.0.2/24", "10.1.0.3/32"} {
		if err := (addr.Ops{}).Create(t.Context(), h, at("", prefix, "pl0")); err != nil {
			t.Fatal(err)
		}
	}
	plant(t, h, "", "10.1.0.9/24", "pl0", 0, 4)
	before := addresses(t, h, "pl0")
	if !slices.Contains(before, "10.1.0.2/24 secondary") {
		t.Fatalf("the second address is no secondary one: %v", before)
	}
	if err := (addr.Ops{}).Delete(t.Context(), h, at("", "10.1.0.1/24", "pl0")); err != nil {
		t.Fatal(err)
	}
	got := addresses(t, h, "pl0")
	slices.Sort(got)
	if want := "10.1.0.2/24, 10.1.0.3/32, 10.1.0.9/24 secondary"; strings.Join(got, ", ") != want {
		t.Errorf("left are %v, want %s", got, want)
	}
}

// An address that the kernel still checks for duplicates, or that makes a route, isn't as it should be.
func TestTrouble(t *testing.T) {
	h := kindtest.Root(t)
	plant(t, h, "", "fd00:10::5/64", "eth0", 0, resource.Protocol)
	if !storesProtocol(t, h) {
		t.Skip("this kernel stores no protocol with addresses")
	}
	owned, _, err := (addr.Ops{}).Observe(t.Context(), h, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(owned) != 1 || !strings.Contains(owned[0].Trouble, "prefix route") {
		t.Fatalf("owned: %+v", owned)
	}
	if fields, inPlace := (addr.Ops{}).Diff(owned[0], at("", "fd00:10::5/64", "eth0")); len(fields) == 0 || inPlace {
		t.Errorf("diff %v, in place %v", fields, inPlace)
	}
}

// Where somebody has switched IPv6 off, no address of it can be added: that shows before anything is written.
func TestSwitchedOff(t *testing.T) {
	h := kindtest.Root(t)
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	off := func(wanted ...addr.Addr) (n int) {
		t.Helper()
		desired := resource.State{}
		_, foreign, err := (addr.Ops{}).Observe(t.Context(), h, wanted)
		if err == nil {
			for _, w := range wanted {
				desired[w.ID()] = w
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		return len((addr.Ops{}).Conflicts(desired, foreign))
	}
	v4, v6 := at("web", "10.0.0.1/32", "eth0"), at("web", "fd00:10::1/128", "eth0")
	if n := off(v4, v6); n != 0 {
		t.Errorf("%d conflicts while it is on", n)
	}
	if err := ns.Do(func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0)
	}); err != nil {
		t.Fatal(err)
	}
	if n := off(v4); n != 0 {
		t.Errorf("%d conflicts with IPv4 alone", n)
	}
	if n := off(v4, v6); n != 1 {
		t.Errorf("%d conflicts while it is off, want 1", n)
	}
}
