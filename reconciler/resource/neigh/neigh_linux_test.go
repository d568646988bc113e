package neigh_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/neigh"
)

func sample(ip, mac string) neigh.Neigh {
	return neigh.Neigh{Dev: "eth0", IP: netip.MustParseAddr(ip), MAC: mac, Proxy: mac == ""}
}

// plant adds an entry as somebody else would, or as the kernel would learn it.
func plant(t *testing.T, h *host.Host, n neigh.Neigh, state int) {
	t.Helper()
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	index, err := ns.LinkIndex(n.Dev)
	if err != nil {
		t.Fatal(err)
	}
	k := &netlink.Neigh{LinkIndex: index, State: state, IP: n.IP.AsSlice()}
	if n.Proxy {
		k.Flags = netlink.NTF_PROXY
	} else if k.HardwareAddr, err = net.ParseMAC(n.MAC); err != nil {
		t.Fatal(err)
	}
	if err := ns.Handle().NeighSet(k); err != nil {
		t.Fatal(err)
	}
	h.Forget()
}

func observe(t *testing.T, h *host.Host, wanted ...neigh.Neigh) (owned, foreign []neigh.Neigh) {
	t.Helper()
	h.Forget()
	owned, foreign, err := (neigh.Ops{}).Observe(t.Context(), h, wanted)
	if err != nil {
		t.Fatal(err)
	}
	return owned, foreign
}

func TestKind(t *testing.T) {
	foreign := func(t *testing.T, h *host.Host, r neigh.Neigh) func(t *testing.T) {
		other := r
		if !r.Proxy {
			other.MAC = "02:ff:00:00:00:01"
		}
		plant(t, h, other, netlink.NUD_PERMANENT)
		return func(t *testing.T) {
			_, now := observe(t, h, r)
			if len(now) != 1 || now[0] != other {
				t.Errorf("the foreign entry became %+v", now)
			}
		}
	}
	for name, samples := range map[string][]neigh.Neigh{
		"permanent": {
			sample(resource.Gateway4, "02:00:00:00:00:01"), sample(resource.Gateway4, "02:00:00:00:00:02"),
			sample(resource.Gateway6, "02:00:00:00:00:01"), sample(resource.Gateway6, "02:00:00:00:00:02"),
		},
		"proxy": {sample("10.0.0.10", ""), sample("fd00:10::a", ""), sample("10.0.0.10", "02:00:00:00:00:01")},
	} {
		t.Run(name, func(t *testing.T) {
			kindtest.Run(t, kindtest.Kind[neigh.Neigh]{Ops: neigh.Ops{}, Samples: samples, Foreign: foreign})
		})
	}
}

// What the kernel learnt by itself is nobody's: it isn't reported, and a permanent entry takes its place.
func TestLearnt(t *testing.T) {
	h := kindtest.Root(t)
	want := sample("10.0.0.10", "02:00:00:00:00:01")
	plant(t, h, sample("10.0.0.10", "02:00:00:00:00:09"), netlink.NUD_STALE)
	if owned, foreign := observe(t, h, want); len(owned)+len(foreign) != 0 {
		t.Errorf("owned %v, foreign %v", owned, foreign)
	}
	if err := (neigh.Ops{}).Create(t.Context(), h, want); err != nil {
		t.Fatal(err)
	}
	if owned, _ := observe(t, h, want); len(owned) != 1 || owned[0] != want {
		t.Errorf("owned %+v", owned)
	}
}

// Entries without a protocol are all there is before kernel 5.0. On our own device the very entry that is wanted is ours,
// to observe and to delete; every other one is somebody else's.
func TestUnmarked(t *testing.T) {
	h := kindtest.Root(t)
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Group = "ours", resource.Group
	if err := ns.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dev, ip, mac, wanted string
		owned                bool
	}{
		{"ours", "10.0.0.10", "02:00:00:00:00:01", "02:00:00:00:00:01", true},
		{"ours", "10.0.0.11", "02:00:00:00:00:09", "02:00:00:00:00:01", false},
		{"ours", "10.0.0.12", "", "", true},
		{"eth0", "10.0.0.13", "02:00:00:00:00:01", "02:00:00:00:00:01", false},
		{"eth0", "10.0.0.14", "", "", false},
	} {
		there, want := sample(c.ip, c.mac), sample(c.ip, c.wanted)
		there.Dev, want.Dev = c.dev, c.dev
		plant(t, h, there, netlink.NUD_PERMANENT)
		owned, foreign := observe(t, h, want)
		if (len(owned) == 1) != c.owned || len(owned)+len(foreign) != 1 {
			t.Errorf("%+v: owned %v, foreign %v", c, owned, foreign)
		}
		h.Forget()
		if err := (neigh.Ops{}).Delete(t.Context(), h, want); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		if owned, foreign := observe(t, h, want); len(owned) != 0 || (len(foreign) == 0) != c.owned {
			t.Errorf("%+v: after delete: owned %v, foreign %v", c, owned, foreign)
		}
	}
}
