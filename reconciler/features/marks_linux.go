package features

import (
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The marks that say who made an object: all of them are set and then read back, because kernels without them accept
// and drop the attribute.
var markProbes = []probe{
	{AddrProtocol, "5.18", "setting IFA_PROTO on an address and reading it back", tryAddrProtocol},
	{NeighProtocol, "5.0", "setting NDA_PROTOCOL on a neighbour entry and reading it back", tryNeighProtocol},
	{PeerGroup, "2.6.39", "setting IFLA_GROUP of a veth peer and reading it back", tryPeerGroup},
}

const (
	trialProtocol = 112
	trialGroup    = 0x706c
	ndaProtocol   = 12 // NDA_PROTOCOL of linux/neighbour.h
	vethInfoPeer  = 1  // VETH_INFO_PEER of linux/veth.h
)

func tryAddrProtocol(s *sandbox) error {
	lo, err := s.up("lo")
	if err != nil {
		return untried("set lo up", err)
	}
	a := address("192.0.2.1/32")
	a.Protocol = trialProtocol
	if err := s.h.AddrAdd(lo, a); err != nil {
		return untried("add an address", err)
	}
	addrs, err := s.h.AddrList(lo, unix.AF_INET)
	if err != nil {
		return untried("list addresses", err)
	}
	for _, got := range addrs {
		if got.IP.Equal(a.IP) && got.Protocol == trialProtocol {
			return nil
		}
	}
	return errAbsent
}

func tryNeighProtocol(s *sandbox) error {
	p, err := s.parent()
	if err != nil {
		return err
	}
	ip := net.IPv4(192, 0, 2, 1).To4()
	add := nl.NewNetlinkRequest(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	add.AddData(&netlink.Ndmsg{Family: unix.AF_INET, Index: uint32(p.Attrs().Index), State: netlink.NUD_PERMANENT})
	add.AddData(nl.NewRtAttr(netlink.NDA_DST, ip))
	add.AddData(nl.NewRtAttr(netlink.NDA_LLADDR, []byte{2, 0, 0, 0, 0, 1}))
	add.AddData(nl.NewRtAttr(ndaProtocol, []byte{trialProtocol}))
	if _, err := add.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return err
	}
	dump := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, unix.NLM_F_DUMP)
	dump.AddData(&netlink.Ndmsg{Family: unix.AF_INET, Index: uint32(p.Attrs().Index)})
	msgs, err := dump.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGH)
	if err != nil {
		return untried("list neighbour entries", err)
	}
	for _, m := range msgs {
		attrs, err := nl.ParseRouteAttr(m[unix.SizeofNdMsg:])
		if err != nil {
			return untried("read a neighbour entry", err)
		}
		for _, a := range attrs {
			if a.Attr.Type == ndaProtocol && len(a.Value) == 1 && a.Value[0] == trialProtocol {
				return nil
			}
		}
	}
	return errAbsent
}

// tryPeerGroup sends the creating request itself, because the netlink package has no group for the peer.
func tryPeerGroup(s *sandbox) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("a")))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	peer := data.AddRtAttr(vethInfoPeer, nil)
	peer.AddChild(nl.NewIfInfomsg(unix.AF_UNSPEC))
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated("b"))
	peer.AddRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(trialGroup))
	req.AddData(info)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return untried("create a veth pair", err)
	}
	b, err := s.h.LinkByName("b")
	if err != nil {
		return untried("find the peer", err)
	}
	if b.Attrs().Group != trialGroup {
		return fmt.Errorf("the peer's group is %d: %w", b.Attrs().Group, errAbsent)
	}
	return nil
}
