package features

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// More kinds of links.
const (
	LinkDummy  Feature = "link.dummy"  // dummy devices
	LinkVXLAN  Feature = "link.vxlan"  // vxlan in collect-metadata mode: one device for all peers
	LinkGeneve Feature = "link.geneve" // geneve in collect-metadata mode
)

var linkProbes = []probe{
	{LinkVeth, "2.6.24", "creating a veth pair", func(s *sandbox) error {
		return s.h.LinkAdd(vethPair("a", "b"))
	}},
	{LinkBridge, "2.6", "creating a bridge", func(s *sandbox) error {
		return s.h.LinkAdd(&netlink.Bridge{LinkAttrs: named("br")})
	}},
	{LinkMacvlan, "2.6.34", "creating a macvlan in bridge mode", func(s *sandbox) error {
		p, err := s.parent()
		if err != nil {
			return err
		}
		return s.h.LinkAdd(&netlink.Macvlan{LinkAttrs: on(p, "mv"), Mode: netlink.MACVLAN_MODE_BRIDGE})
	}},
	{LinkIPvlanL2, "3.19", "creating an ipvlan in l2 mode", func(s *sandbox) error { return s.ipvlan(netlink.IPVLAN_MODE_L2) }},
	{LinkIPvlanL3, "3.19", "creating an ipvlan in l3 mode", func(s *sandbox) error { return s.ipvlan(netlink.IPVLAN_MODE_L3) }},
	{LinkNetkit, "6.7", "creating a netkit pair", func(s *sandbox) error { return s.netkit() }},
	{LinkDummy, "2.6", "creating a dummy device", func(s *sandbox) error {
		return s.h.LinkAdd(&netlink.Dummy{LinkAttrs: named("dummy")})
	}},
	{LinkVXLAN, "4.3", "creating a vxlan device with collect-metadata", func(s *sandbox) error {
		return s.h.LinkAdd(&netlink.Vxlan{LinkAttrs: named("vx"), FlowBased: true, Port: 8472, Learning: false})
	}},
	{LinkGeneve, "4.3", "creating a geneve device with collect-metadata", func(s *sandbox) error {
		return s.h.LinkAdd(&netlink.Geneve{LinkAttrs: named("gnv"), FlowBased: true, Dport: 6081})
	}},
}

func (s *sandbox) ipvlan(mode netlink.IPVlanMode) error {
	p, err := s.parent()
	if err != nil {
		return err
	}
	return s.h.LinkAdd(&netlink.IPVlan{LinkAttrs: on(p, fmt.Sprintf("ipv%d", s.parents)), Mode: mode})
}

// netkit creates the pair "nk", "nkpeer".
func (s *sandbox) netkit() error {
	nk := &netlink.Netkit{
		LinkAttrs: named("nk"),
		Mode:      netlink.NETKIT_MODE_L3,
		Scrub:     netlink.NETKIT_SCRUB_DEFAULT,
		PeerScrub: netlink.NETKIT_SCRUB_DEFAULT,
	}
	peer := named("nkpeer")
	nk.SetPeerAttrs(&peer)
	return s.h.LinkAdd(nk)
}

func named(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

func on(parent netlink.Link, name string) netlink.LinkAttrs {
	a := named(name)
	a.ParentIndex = parent.Attrs().Index
	return a
}

func vethPair(name, peer string) *netlink.Veth {
	return &netlink.Veth{LinkAttrs: named(name), PeerName: peer}
}
