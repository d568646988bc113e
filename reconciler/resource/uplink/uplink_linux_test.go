package uplink_test

import (
	"testing"

	"github.com/vishvananda/netlink"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/uplink"
)

const name = "uplinks.v1.64"

// setup pins the map, and makes two devices.
func setup(t testing.TB, h *host.Host) {
	t.Helper()
	kindtest.BPFFS(t, h)
	base, _, entries, _ := bpf.ParseMapName(name)
	m, err := bpf.NewMap(base, entries)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := h.MakeBPFFolder(host.BPFMapFolder); err != nil {
		t.Fatal(err)
	}
	if err := m.Pin(h.BPFPath(host.BPFMapFolder, name)); err != nil {
		t.Fatal(err)
	}
	h.ForgetMaps()
	for _, dev := range []string{"up1", "up2"} {
		if err := root(t, h).Handle().LinkAdd(device(dev)); err != nil {
			t.Fatal(err)
		}
	}
}

func device(name string) netlink.Link {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	return &netlink.Bridge{LinkAttrs: attrs}
}

func root(t testing.TB, h *host.Host) *host.NS {
	t.Helper()
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func sample(dev string, mtu int) uplink.Uplink {
	return uplink.Uplink{Dev: dev, MTU: mtu, Maps: []resource.ID{{Kind: "bpfmap", Name: name}}}
}

func TestKind(t *testing.T) {
	kindtest.Run(t, kindtest.Kind[uplink.Uplink]{
		Ops:     uplink.Ops{},
		Samples: []uplink.Uplink{sample("up1", 1500), sample("up1", 9000), sample("up2", 1500)},
		Setup:   func(t *testing.T, h *host.Host) { setup(t, h) },
	})
}

// A device that was made anew under its name has no entry; what the one before had shows, can be removed, and doesn't come back.
func TestMadeAnew(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	ops, up := uplink.Ops{}, sample("up1", 1500)
	observe := func() []uplink.Uplink {
		t.Helper()
		h.Forget()
		owned, _, err := ops.Observe(t.Context(), h, []uplink.Uplink{up})
		if err != nil {
			t.Fatal(err)
		}
		return owned
	}
	if err := ops.Create(t.Context(), h, up); err != nil {
		t.Fatal(err)
	}
	old, err := root(t, h).Link("up1")
	if err != nil {
		t.Fatal(err)
	}
	if err := root(t, h).Handle().LinkDel(old); err != nil {
		t.Fatal(err)
	}
	if err := ops.Delete(t.Context(), h, up); err != nil {
		t.Errorf("the device is gone: %v", err)
	}
	if err := root(t, h).Handle().LinkAdd(device("up1")); err != nil {
		t.Fatal(err)
	}
	left := observe()
	if len(left) != 1 || left[0].ID() == up.ID() {
		t.Fatalf("observed %v, want the entry of a device that is gone", left)
	}
	if r := left[0].Restored(nil); r != nil {
		t.Errorf("%v would come back", r)
	}
	if err := ops.Create(t.Context(), h, up); err != nil {
		t.Fatal(err)
	}
	if err := ops.Delete(t.Context(), h, left[0]); err != nil {
		t.Fatal(err)
	}
	if now := observe(); len(now) != 1 || now[0].ID() != up.ID() || now[0].MTU != 1500 {
		t.Errorf("observed %v, want that of the new device alone", now)
	}
}
