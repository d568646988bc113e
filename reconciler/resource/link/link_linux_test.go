package link_test

import (
	"testing"

	"github.com/vishvananda/netlink"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource/link"
)

const (
	podMAC  = "02:00:00:00:00:01"
	hostMAC = "02:00:00:00:00:02"
)

func veth() link.Link {
	return link.Link{NetNS: "web", Name: "eth0", Type: link.Veth, MTU: 1500, MAC: podMAC,
		Peer: &link.Peer{Name: "plumb-web", MAC: hostMAC, MTU: 1500}}
}

// but changes a copy of a link.
func but(l link.Link, change func(*link.Link)) link.Link {
	if l.Peer != nil {
		p := *l.Peer
		l.Peer = &p
	}
	change(&l)
	return l
}

func child(kind, mode string) link.Link {
	l := link.Link{NetNS: "web", Name: "eth0", Type: kind, Mode: mode, Parent: "eth0"}
	if kind == link.Macvlan {
		l.MAC = podMAC
	}
	return l
}

func netkit() link.Link {
	return but(veth(), func(l *link.Link) { l.Type, l.Mode = link.Netkit, "l2" })
}

func setup(t *testing.T, h *host.Host) {
	kindtest.Pod(t, h, "web")
	kindtest.Pod(t, h, "db")
}

func run(t *testing.T, samples ...link.Link) {
	kindtest.Run(t, kindtest.Kind[link.Link]{Ops: link.Ops{}, Samples: samples, Setup: setup, Foreign: foreign})
}

func TestVeth(t *testing.T) {
	run(t, veth(),
		but(veth(), func(l *link.Link) { l.MTU, l.Peer.MTU = 9000, 9000 }),
		but(veth(), func(l *link.Link) { l.MAC = "02:00:00:00:00:03" }),
		but(veth(), func(l *link.Link) { l.Peer.Name = "plumb-other" }),
		but(veth(), func(l *link.Link) { l.NetNS, l.Peer.Name = "db", "plumb-db" }))
}

func TestBridge(t *testing.T) {
	bridge := link.Link{Name: "plumb0", Type: link.Bridge, MTU: 1500, MAC: hostMAC}
	run(t, bridge,
		but(bridge, func(l *link.Link) { l.MTU = 9000 }),
		but(bridge, func(l *link.Link) { l.MAC = podMAC }),
		but(bridge, func(l *link.Link) { l.Name = "plumb1" }))
}

// A pair's end in the root namespace is a port of the node's bridge, or not.
func TestPort(t *testing.T) {
	port := func(master string, hairpin bool) link.Link {
		return but(veth(), func(l *link.Link) { l.Peer.Master, l.Peer.Hairpin = master, hairpin })
	}
	kindtest.Run(t, kindtest.Kind[link.Link]{
		Ops:     link.Ops{},
		Samples: []link.Link{port("plumb0", false), port("plumb0", true), port("plumb9", true), port("", false)},
		Setup: func(t *testing.T, h *host.Host) {
			setup(t, h)
			for _, name := range []string{"plumb0", "plumb9"} {
				attrs := netlink.NewLinkAttrs()
				attrs.Name = name
				if err := root(t, h).Handle().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
					t.Fatal(err)
				}
			}
		},
		Foreign: foreign,
	})
}

func TestMacvlan(t *testing.T) {
	run(t, child(link.Macvlan, "bridge"),
		but(child(link.Macvlan, "bridge"), func(l *link.Link) { l.MTU = 1400 }),
		link.Link{Name: "plumb-host", Type: link.Macvlan, Mode: "bridge", Parent: "eth0", MAC: hostMAC})
}

func TestIPvlan(t *testing.T) {
	run(t, child(link.IPvlan, "l2"), child(link.IPvlan, "l3"),
		but(child(link.IPvlan, "l2"), func(l *link.Link) { l.MTU = 1400 }),
		link.Link{Name: "plumb-host", Type: link.IPvlan, Mode: "l2", Parent: "eth0"})
}

func TestNetkit(t *testing.T) {
	run(t, netkit(), but(netkit(), func(l *link.Link) { l.MTU, l.Peer.MTU = 9000, 9000 }),
		but(netkit(), func(l *link.Link) { l.NetNS, l.Peer.Name = "db", "plumb-db" }))
}

// A pod keeps its interface's name when its attachment changes.
func TestEveryTypeIntoEveryOther(t *testing.T) {
	run(t, veth(), netkit(), child(link.Macvlan, "bridge"), child(link.IPvlan, "l2"))
}

// foreign makes a veth pair without our mark whose end has the name of r.
func foreign(t *testing.T, h *host.Host, r link.Link) func(*testing.T) {
	ns, err := h.NS(r.NetNS)
	if err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = r.Name
	if err := ns.Handle().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "foreign"}); err != nil {
		t.Fatal(err)
	}
	before, err := ns.Link(r.Name)
	if err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T) {
		after, err := ns.Link(r.Name)
		if err != nil {
			t.Fatal(err)
		}
		if after.Index != before.Index || after.Group != before.Group || after.Alias != before.Alias || after.MTU != before.MTU {
			t.Errorf("the foreign link was %+v, is %+v", before.LinkAttrs, after.LinkAttrs)
		}
	}
}
