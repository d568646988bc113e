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
