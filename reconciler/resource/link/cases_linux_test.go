package link_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/link"
)

func create(t *testing.T, h *host.Host, links ...link.Link) {
	t.Helper()
	for _, l := range links {
		if err := (link.Ops{}).Create(t.Context(), h, l); err != nil {
			t.Fatal(err)
		}
	}
}

// observe looks afresh and returns what is ours, by ID.
func observe(t *testing.T, h *host.Host, wanted ...link.Link) (owned map[resource.ID]link.Link, foreign []link.Link) {
	t.Helper()
	h.Forget()
	list, foreign, err := link.Ops{}.Observe(t.Context(), h, wanted)
	if err != nil {
		t.Fatal(err)
	}
	owned = map[resource.ID]link.Link{}
	for _, l := range list {
		if _, twice := owned[l.ID()]; twice {
			t.Errorf("%s is reported twice", l.ID())
		}
		owned[l.ID()] = l
	}
	return owned, foreign
}

func root(t *testing.T, h *host.Host) *host.NS { return ns(t, h, "") }

func ns(t *testing.T, h *host.Host, name string) *host.NS {
	t.Helper()
	n, err := h.NS(name)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func find(t *testing.T, n *host.NS, name string) *host.Link {
	t.Helper()
	l, err := n.Link(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// No device of ours gets a link-local address by itself, at neither end.
func TestNoLinkLocalAddresses(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	bridge := link.Link{Name: "plumb0", Type: link.Bridge, MAC: hostMAC}
	db := link.Link{NetNS: "db", Name: "eth0", Type: link.Macvlan, Mode: "bridge", Parent: "eth0", MAC: "02:00:00:00:00:05"}
	create(t, h, bridge, but(veth(), func(l *link.Link) { l.Peer.Master = "plumb0" }), db)
	h.Forget()
	for _, name := range []string{"", "web", "db"} {
		n := ns(t, h, name)
		addrs, err := n.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		links, err := n.Links()
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addrs {
			i := slices.IndexFunc(links, func(l *host.Link) bool { return l.Index == a.LinkIndex })
			if links[i].Group == resource.Group && links[i].Name != "lo" {
				t.Errorf("%s has %s", link.For(name, links[i].Name), a.IPNet)
			}
		}
	}
	owned, _ := observe(t, h)
	for id, l := range owned {
		if l.Faults != "" {
			t.Errorf("%s: %s", id, l.Faults)
		}
	}
	if p := owned[veth().ID()].Peer; p == nil || p.Master != "plumb0" {
		t.Errorf("the peer is %+v", p)
	}
}

// Whatever somebody changes at a pair is noticed, and mended in place.
func TestDriftOfPair(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	want := veth()
	create(t, h, want, link.Link{Name: "plumb0", Type: link.Bridge})
	pod, node := ns(t, h, "web"), root(t, h)
	inPod, onNode := find(t, pod, "eth0"), find(t, node, "plumb-web")
	for what, damage := range map[string]func() error{
		"pod down":    func() error { return pod.Handle().LinkSetDown(inPod) },
		"peer down":   func() error { return node.Handle().LinkSetDown(onNode) },
		"pod mtu":     func() error { return pod.Handle().LinkSetMTU(inPod, 1300) },
		"peer mtu":    func() error { return node.Handle().LinkSetMTU(onNode, 1300) },
		"pod group":   func() error { return pod.Handle().LinkSetGroup(inPod, 0) },
		"peer group":  func() error { return node.Handle().LinkSetGroup(onNode, 0) },
		"peer alias":  func() error { return node.Handle().LinkSetAlias(onNode, "mine") },
		"peer master": func() error { return node.Handle().LinkSetMasterByIndex(onNode, find(t, node, "plumb0").Index) },
		"peer hairpin": func() error {
			if err := node.Handle().LinkSetMasterByIndex(onNode, find(t, node, "plumb0").Index); err != nil {
				return err
			}
			return node.Handle().LinkSetHairpin(onNode, true)
		},
		"address modes": func() error { return node.Handle().LinkSetIP6AddrGenMode(onNode, 0) },
	} {
		t.Run(what, func(t *testing.T) {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			owned, _ := observe(t, h, want)
			fields, inPlace := link.Ops{}.Diff(owned[want.ID()], want)
			if len(fields) == 0 || !inPlace {
				t.Fatalf("observed %+v, fields %v, in place %v", owned[want.ID()], fields, inPlace)
			}
			if err := (link.Ops{}).Update(t.Context(), h, owned[want.ID()], want); err != nil {
				t.Fatal(err)
			}
			owned, _ = observe(t, h, want)
			if fields, _ := (link.Ops{}).Diff(owned[want.ID()], want); len(fields) > 0 {
				t.Errorf("after mending: %v", fields)
			}
			if now := find(t, pod, "eth0"); now.Index != inPod.Index {
				t.Error("the device is another one")
			}
		})
	}
}

// A pod's device that somebody gave another name goes without being allowed to: the pod has lost it already.
func TestRenamed(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	want := veth()
	create(t, h, want)
	pod := ns(t, h, "web")
	l := find(t, pod, "eth0")
	if err := pod.Handle().LinkSetDown(l); err != nil {
		t.Fatal(err)
	}
	if err := pod.Handle().LinkSetName(l, "net0"); err != nil {
		t.Fatal(err)
	}
	other := want
	other.NetNS = "db"
	for _, c := range []struct {
		wanted link.Link
		class  resource.Disruption
	}{{want, resource.DisruptsNothing}, {other, resource.DisruptsPod}} {
		owned, _ := observe(t, h, c.wanted)
		is, ok := owned[link.For("web", "net0")]
		if !ok || is.Disruption(resource.Delete, is) != c.class {
			t.Errorf("with %s wanted, deleting %+v isn't %s", c.wanted.ID(), is, c.class)
		}
	}
}

// A bridge whose settings drift is mended, and keeps its MTU when ports of another MTU come.
func TestDriftOfBridge(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	want := link.Link{Name: "plumb0", Type: link.Bridge, MTU: 1500, MAC: hostMAC}
	create(t, h, want, but(veth(), func(l *link.Link) { l.MTU, l.Peer.MTU, l.Peer.MAC, l.Peer.Master = 9000, 9000, "", "plumb0" }))
	br := find(t, root(t, h), "plumb0")
	if br.MTU != 1500 {
		t.Errorf("with a port of MTU 9000 the bridge has %d", br.MTU)
	}
	for what, data := range map[string]*nl.RtAttr{
		"snooping": nl.NewRtAttr(nl.IFLA_BR_MCAST_SNOOPING, []byte{1}),
		"stp":      nl.NewRtAttr(nl.IFLA_BR_STP_STATE, nl.Uint32Attr(1)),
		"delay":    nl.NewRtAttr(nl.IFLA_BR_FORWARD_DELAY, nl.Uint32Attr(1500)),
	} {
		t.Run(what, func(t *testing.T) {
			req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
			msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
			msg.Index = int32(br.Index)
			req.AddData(msg)
			info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
			info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
			info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddChild(data)
			req.AddData(info)
			if err := root(t, h).Request(req); err != nil {
				t.Fatal(err)
			}
			owned, _ := observe(t, h, want)
			if !strings.Contains(owned[want.ID()].Faults, what) {
				t.Fatalf("observed %+v", owned[want.ID()])
			}
			if err := (link.Ops{}).Update(t.Context(), h, owned[want.ID()], want); err != nil {
				t.Fatal(err)
			}
			if owned, _ = observe(t, h, want); owned[want.ID()].Faults != "" {
				t.Errorf("after mending: %+v", owned[want.ID()])
			}
		})
	}
}

// A pair whose pod end somebody moved away is replaced where it is wanted, and otherwise removed by its end on the node.
func TestLoneEnd(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	want := veth()
	create(t, h, want)
	far := kindtest.Namespace(t)
	pod := ns(t, h, "web")
	if err := pod.Handle().LinkSetNsFd(find(t, pod, "eth0"), int(far.Fd())); err != nil {
		t.Fatal(err)
	}
	if owned, _ := observe(t, h); len(owned) != 1 || owned[link.For("", "plumb-web")].Type != link.Veth {
		t.Errorf("not wanted any more: %+v", owned)
	}
	owned, _ := observe(t, h, want)
	if _, inPlace := (link.Ops{}).Diff(owned[want.ID()], want); len(owned) != 1 || inPlace {
		t.Fatalf("wanted: %+v, in place %v", owned, inPlace)
	}
	if err := (link.Ops{}).Delete(t.Context(), h, owned[want.ID()]); err != nil {
		t.Fatal(err)
	}
	create(t, h, want)
	owned, _ = observe(t, h, want)
	if fields, _ := (link.Ops{}).Diff(owned[want.ID()], want); len(owned) != 1 || len(fields) > 0 {
		t.Errorf("after the replacement: %+v", owned)
	}
}

// A device of another plumb node with our group is somebody else's, and so is one that only has the name of our root end.
func TestForeignOnTheNode(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Group = "plumb-web", resource.Group
	handle := root(t, h).Handle()
	if err := handle.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	if err := handle.LinkSetAlias(find(t, root(t, h), "plumb-web"), resource.AliasPrefix+"other/web"); err != nil {
		t.Fatal(err)
	}
	owned, foreign := observe(t, h, veth())
	conflicts := link.Ops{}.Conflicts(resource.State{veth().ID(): veth()}, foreign)
	if len(owned) > 0 || len(conflicts) != 1 || conflicts[0].Owner != "plumb node other's" {
		t.Errorf("owned %+v, conflicts %+v", owned, conflicts)
	}
	if err := (link.Ops{}).Delete(t.Context(), h, link.Link{Name: "plumb-web", Type: link.Bridge}); err != nil {
		t.Fatal(err)
	}
	find(t, root(t, h), "plumb-web")
}

// Somebody else's child keeps an uplink busy for children of another kind: a conflict, before the kernel is asked.
func TestForeignChild(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = "theirs", find(t, root(t, h), "eth0").Index
	if err := root(t, h).Handle().LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		want      link.Link
		conflicts int
	}{{child(link.IPvlan, "l2"), 1}, {child(link.Macvlan, "bridge"), 0}} {
		_, foreign := observe(t, h, c.want)
		if got := (link.Ops{}).Conflicts(resource.State{c.want.ID(): c.want}, foreign); len(got) != c.conflicts {
			t.Errorf("%s: conflicts %+v, want %d", c.want.Type, got, c.conflicts)
		}
	}
}

// What a kill leaves between the creation of a child and its renaming is in nobody's way.
func TestNewbornChild(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	want := child(link.Macvlan, "bridge")
	create(t, h, but(want, func(l *link.Link) { l.Name = "eth1" }))
	pod := ns(t, h, "web")
	made := find(t, pod, "eth1")
	if err := pod.Handle().LinkSetDown(made); err != nil {
		t.Fatal(err)
	}
	if err := pod.Handle().LinkSetName(made, "plumb-new"); err != nil {
		t.Fatal(err)
	}
	create(t, h, want)
	if owned, _ := observe(t, h, want); len(owned) != 1 || owned[want.ID()].Parent != "eth0" {
		t.Errorf("owned %+v", owned)
	}
}

// An uplink that can't have children is a conflict before anything is created.
func TestBusyParent(t *testing.T) {
	want := link.Link{NetNS: "web", Name: "eth0", Type: link.Macvlan, Mode: "bridge", Parent: "eth0", MAC: podMAC}
	for what, plant := range map[string]func(h *netlink.Handle, uplink *host.Link) error{
		"a port of bridge br9": func(h *netlink.Handle, uplink *host.Link) error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name = "br9"
			br := &netlink.Bridge{LinkAttrs: attrs}
			if err := h.LinkAdd(br); err != nil {
				return err
			}
			return h.LinkSetMaster(uplink, br)
		},
		resource.Unmarked: func(h *netlink.Handle, uplink *host.Link) error {
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.ParentIndex = "mv9", uplink.Index
			return h.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_PASSTHRU})
		},
	} {
		t.Run(what, func(t *testing.T) {
			h := kindtest.Root(t)
			setup(t, h)
			if err := plant(root(t, h).Handle(), find(t, root(t, h), "eth0")); err != nil {
				t.Fatal(err)
			}
			_, foreign := observe(t, h, want)
			conflicts := link.Ops{}.Conflicts(resource.State{want.ID(): want}, foreign)
			if len(conflicts) != 1 || conflicts[0].Owner != what {
				t.Errorf("conflicts %+v", conflicts)
			}
		})
	}
}

// The kernel refuses a name that is another device's second one.
func TestSecondName(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	if err := root(t, h).Handle().LinkAddAltName(find(t, root(t, h), "eth0"), "plumb-web"); err != nil {
		t.Fatal(err)
	}
	_, foreign := observe(t, h, veth())
	conflicts := link.Ops{}.Conflicts(resource.State{veth().ID(): veth()}, foreign)
	if len(conflicts) != 1 || conflicts[0].Owner != "another name of eth0" {
		t.Errorf("conflicts %+v", conflicts)
	}
}
