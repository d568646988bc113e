package nic_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/reconciler/resource/nic"
)

const (
	big   = 192 << 10
	plain = 64 << 10
)

// tap makes a device whose driver can be asked by ethtool, and the name of which is tap0.
func tap(t *testing.T, h *host.Host) {
	t.Helper()
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	var f *os.File
	if err := ns.Do(func() error {
		if f, err = os.OpenFile("/dev/net/tun", os.O_RDWR, 0); err != nil {
			return err
		}
		req, err := unix.NewIfreq("tap0")
		if err != nil {
			return err
		}
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		return unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, req)
	}); err != nil {
		t.Fatalf("make a tap device: %v", err)
	}
	t.Cleanup(func() { f.Close() })
	h.Forget()
}

// pair makes a pair of plumb's own.
func pair(t *testing.T, h *host.Host) link.Link {
	t.Helper()
	kindtest.Pod(t, h, "web")
	l := link.Link{NetNS: "web", Name: "eth0", Type: link.Veth, MTU: 1500, MAC: "02:00:00:00:01:01",
		Peer: &link.Peer{Name: "pl1", MTU: 1500, MAC: "02:00:00:00:01:02"}}
	if err := (link.Ops{}).Create(t.Context(), h, l); err != nil {
		t.Fatal(err)
	}
	h.Forget()
	return l
}

func look(t *testing.T, h *host.Host, netns, dev string) *host.Link {
	t.Helper()
	ns, err := h.NS(netns)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ns.Link(dev)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// by changes a device as an administrator would.
func by(t *testing.T, h *host.Host, dev string, change func(*netlink.Handle, netlink.Link) error) {
	t.Helper()
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	if err := change(ns.Handle(), look(t, h, "", dev)); err != nil {
		t.Fatal(err)
	}
}

func mtu(n int) func(*netlink.Handle, netlink.Link) error {
	return func(h *netlink.Handle, l netlink.Link) error { return h.LinkSetMTU(l, n) }
}

func update(t *testing.T, h *host.Host, n nic.NIC) {
	t.Helper()
	if err := (nic.Ops{}).Update(t.Context(), h, nic.NIC{}, n); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, h *host.Host, n nic.NIC) {
	t.Helper()
	if err := (nic.Ops{}).Delete(t.Context(), h, n); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(h.Path("prior", "*", "*")); err != nil || len(left) != 0 {
		t.Errorf("records left: %v, %v", left, err)
	}
}

// bigTCP skips where the kernel has no packets above 64 KiB.
func bigTCP(t *testing.T, h *host.Host) {
	t.Helper()
	n := nic.NIC{Dev: "eth0", Values: nic.Values{nic.GSO: big, nic.GRO: big, nic.GSO4: big, nic.GRO4: big}}
	err := (nic.Ops{}).Create(t.Context(), h, n)
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	remove(t, h, n)
}

func TestKind(t *testing.T) {
	kindtest.Run(t, kindtest.Kind[nic.NIC]{
		Ops: nic.Ops{},
		Samples: []nic.NIC{
			{Dev: "eth0", Values: nic.Values{nic.MTU: 1400}},
			{Dev: "eth0", Values: nic.Values{nic.MTU: 1300, nic.GSO: 60000}},
			{Dev: "eth0", Values: nic.Values{nic.GSO: big, nic.GRO: big}},
			{Dev: "eth0", Values: nic.Values{nic.GSO: big, nic.GRO: big, nic.GSO4: big, nic.GRO4: big}},
			{Dev: "tap0", Values: nic.Values{nic.RxFrames: 16, nic.MTU: 1400}},
		},
		Setup: tap,
	})
}

// Devices of plumb's have no records: what is larger than the kernel makes it is plumb's.
func TestKindOwn(t *testing.T) {
	made := link.For("web", "eth0")
	kindtest.Run(t, kindtest.Kind[nic.NIC]{
		Ops: nic.Ops{},
		Samples: []nic.NIC{
			{NetNS: "web", Dev: "eth0", Link: made, Values: nic.Values{nic.GSO: big, nic.GRO: big}},
			{NetNS: "web", Dev: "eth0", Link: made, Values: nic.Values{nic.GSO: big, nic.GRO: big, nic.GSO4: big, nic.GRO4: big}},
			{Dev: "pl1", Link: made, Values: nic.Values{nic.GSO: 2 * plain, nic.GRO: 2 * plain, nic.GSO4: big, nic.GRO4: big}},
		},
		Setup: func(t *testing.T, h *host.Host) { pair(t, h) },
	})
}

// What the files don't want any more goes back, though other settings of the device stay.
func TestFewerSettings(t *testing.T) {
	h := kindtest.Root(t)
	tap(t, h)
	n := nic.NIC{Dev: "tap0", Values: nic.Values{nic.MTU: 1400, nic.RxFrames: 16}}
	update(t, h, n)
	less := nic.NIC{Dev: "tap0", Values: nic.Values{nic.RxFrames: 16}}
	h.Forget()
	owned, _, err := (nic.Ops{}).Observe(t.Context(), h, []nic.NIC{less})
	if err != nil || len(owned) != 1 {
		t.Fatalf("observed %v, %v", owned, err)
	}
	fields, inPlace := (nic.Ops{}).Diff(owned[0], less)
	if want := (resource.Field{Name: "mtu", Before: "1400", After: "1500"}); len(fields) != 1 || fields[0] != want || !inPlace {
		t.Errorf("differs: %v", fields)
	}
	update(t, h, less)
	if now := look(t, h, "", "tap0").MTU; now != 1500 {
		t.Errorf("the MTU is %d", now)
	}
	h.Forget()
	if owned, _, err = (nic.Ops{}).Observe(t.Context(), h, nil); err != nil || len(owned) != 1 || owned[0].Describe() != "tap0 rx-frames 16" {
		t.Errorf("observed %v, %v", owned, err)
	}
	remove(t, h, less)
}

// The value from before the first change counts, however often plumb's own value changes or somebody's is healed.
func TestFirstPrior(t *testing.T) {
	h := kindtest.Root(t)
	by(t, h, "eth0", mtu(1450))
	n := nic.NIC{Dev: "eth0", Values: nic.Values{nic.MTU: 1400}}
	update(t, h, n)
	n.Values = nic.Values{nic.MTU: 1300}
	update(t, h, n)
	by(t, h, "eth0", mtu(1350)) // drift, healed
	update(t, h, n)
	remove(t, h, n)
	if now := look(t, h, "", "eth0").MTU; now != 1450 {
		t.Errorf("the MTU is %d", now)
	}
}

// A value that isn't ours any more stays, and that is said.
func TestValueOfSomebodyElse(t *testing.T) {
	h := kindtest.Root(t)
	n := nic.NIC{Dev: "eth0", Values: nic.Values{nic.MTU: 1400}}
	update(t, h, n)
	by(t, h, "eth0", mtu(1350))
	remove(t, h, n)
	if now := look(t, h, "", "eth0").MTU; now != 1350 {
		t.Errorf("the MTU is %d", now)
	}
	if w := h.Warnings(); len(w) != 1 || !strings.Contains(w[0], "mtu of device eth0 is 1350 now") {
		t.Errorf("warnings: %q", w)
	}
}

// A record is about one device: the next one of its name isn't touched, and a record without one goes without a word.
func TestAnotherDevice(t *testing.T) {
	for _, again := range []bool{false, true} {
		h := kindtest.Root(t)
		add := func(h *netlink.Handle, _ netlink.Link) error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.MTU = "br9", 1400
			return h.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
		}
		by(t, h, "eth0", add)
		n := nic.NIC{Dev: "br9", Values: nic.Values{nic.MTU: 1300}}
		update(t, h, n)
		by(t, h, "br9", func(h *netlink.Handle, l netlink.Link) error { return h.LinkDel(l) })
		if again {
			by(t, h, "eth0", add)
			by(t, h, "br9", mtu(1300))
		}
		h.Forget()
		owned, _, err := (nic.Ops{}).Observe(t.Context(), h, nil)
		if err != nil || len(owned) != 1 {
			t.Fatalf("observed %v, %v", owned, err)
		}
		remove(t, h, owned[0])
		if again && look(t, h, "", "br9").MTU != 1300 {
			t.Error("another device was changed")
		}
		if w := h.Warnings(); len(w) != 0 {
			t.Errorf("warnings: %q", w)
		}
	}
}

// A pair's both ends take large packets while the pod runs, and nothing is left when that isn't wanted any more.
func TestBothEnds(t *testing.T) {
	h := kindtest.Root(t)
	bigTCP(t, h)
	l := pair(t, h)
	values := nic.Values{nic.GSO: big, nic.GRO: big, nic.GSO4: big, nic.GRO4: big}
	for _, n := range []nic.NIC{{NetNS: "web", Dev: "eth0", Link: l.ID(), Values: values}, {Dev: "pl1", Link: l.ID(), Values: values}} {
		before := look(t, h, n.NetNS, n.Dev)
		update(t, h, n)
		now := look(t, h, n.NetNS, n.Dev)
		if now.GSOMaxSize != big || now.GROMaxSize != big || now.GSOIPv4MaxSize != big || now.GROIPv4MaxSize != big {
			t.Errorf("%s: %+v", n.ID(), now.LinkAttrs)
		}
		if now.Index != before.Index || !now.Up() {
			t.Errorf("%s: the device is another one, or down", n.ID())
		}
		if n.Recorded() || n.Disruption(resource.Update, nic.NIC{}) != resource.DisruptsNothing {
			t.Errorf("%s: recorded, or disruptive", n.ID())
		}
	}
	h.Forget()
	owned, _, err := (nic.Ops{}).Observe(t.Context(), h, nil)
	if err != nil || len(owned) != 2 {
		t.Fatalf("observed %v, %v", owned, err)
	}
	for _, n := range owned {
		remove(t, h, n)
		if now := look(t, h, n.NetNS, n.Dev); now.GSOMaxSize != plain || now.GSOIPv4MaxSize != plain {
			t.Errorf("%s: %+v", n.ID(), now.LinkAttrs)
		}
	}
	h.Forget()
	if owned, _, err = (nic.Ops{}).Observe(t.Context(), h, nil); err != nil || len(owned) != 0 {
		t.Errorf("left: %v, %v", owned, err)
	}
}

// What somebody made large for IPv4 stays so, though the kernel makes it plain with the sizes of all.
func TestOthersLargeIPv4(t *testing.T) {
	h := kindtest.Root(t)
	bigTCP(t, h)
	by(t, h, "eth0", func(nl *netlink.Handle, l netlink.Link) error {
		return errors.Join(nl.LinkSetGSOIPv4MaxSize(l, big), nl.LinkSetGROIPv4MaxSize(l, big))
	})
	n := nic.NIC{Dev: "eth0", Values: nic.Values{nic.GSO: big, nic.GRO: big, nic.GSO4: big, nic.GRO4: big}}
	h.Forget()
	update(t, h, n)
	remove(t, h, n)
	h.Forget()
	now := look(t, h, "", "eth0")
	if now.GSOMaxSize != plain || now.GROMaxSize != plain || now.GSOIPv4MaxSize != big || now.GROIPv4MaxSize != big {
		t.Errorf("afterwards %d, %d, of IPv4 %d, %d", now.GSOMaxSize, now.GROMaxSize, now.GSOIPv4MaxSize, now.GROIPv4MaxSize)
	}
}

// What a device hasn't got is found before anything is written; what the driver alters is an error, and is put back.
func TestErrors(t *testing.T) {
	h := kindtest.Root(t)
	tap(t, h)
	for _, c := range []struct {
		n    nic.NIC
		want string
	}{
		{nic.NIC{Dev: "eth9", Values: nic.Values{nic.MTU: 1400}, From: "tuning.mtu"}, "tuning.mtu: not available here: there is no device eth9"},
		{nic.NIC{Dev: "eth0", Values: nic.Values{nic.RxRing: 512, nic.TxRing: 512}, From: "a"}, "a: not available here: device eth0 has no rx-ring, tx-ring"},
	} {
		_, _, err := (nic.Ops{}).Observe(t.Context(), h, []nic.NIC{c.n})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.n.Describe(), err, c.want)
		}
	}
	if h.Writes() != 0 {
		t.Errorf("%d writes", h.Writes())
	}
	rounded := nic.NIC{Dev: "tap0", Values: nic.Values{nic.RxFrames: 1000}}
	err := (nic.Ops{}).Update(t.Context(), h, nic.NIC{}, rounded)
	if want := "the device made 64 of rx-frames 1000"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q", err, want)
	}
	h.Forget()
	owned, _, err := (nic.Ops{}).Observe(t.Context(), h, []nic.NIC{rounded})
	if err != nil || len(owned) != 1 || owned[0].Values[nic.RxFrames] != 0 {
		t.Errorf("what was refused left %v, %v", owned, err)
	}
	remove(t, h, rounded)
}

// Hardware may lose its link for a change of its MTU; a change of sizes only, or of what has no hardware, hurts nobody.
func TestDisruption(t *testing.T) {
	n := nic.NIC{Dev: "eth0", Values: nic.Values{nic.MTU: 9000}}
	for _, c := range []struct {
		before nic.NIC
		want   resource.Disruption
	}{
		{nic.NIC{Dev: "eth0", Values: nic.Values{nic.MTU: 1500}}, resource.DisruptsLink},
		{nic.NIC{Dev: "eth0", Values: nic.Values{nic.MTU: 9000}}, resource.DisruptsNothing},
	} {
		if got := n.Disruption(resource.Update, c.before); got != c.want {
			t.Errorf("from %s: %s, want %s", c.before.Describe(), got, c.want)
		}
	}
	sizes := nic.NIC{Dev: "eth0", Values: nic.Values{nic.GSO: big}}
	if got := sizes.Disruption(resource.Update, nic.NIC{Values: nic.Values{nic.GSO: plain}}); got != resource.DisruptsNothing {
		t.Errorf("sizes: %s", got)
	}
}
