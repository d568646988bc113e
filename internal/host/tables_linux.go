package host

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Neigh is one neighbour or proxy entry, with the protocol that the netlink library leaves out.
type Neigh struct {
	netlink.Neigh
	Protocol int
}

const (
	ifaProto    = 11 // IFA_PROTO
	rtaNHID     = 30 // RTA_NH_ID
	ndaProtocol = 12 // NDA_PROTOCOL
)

func dumpRequest(kind int, header nl.NetlinkRequestData) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, unix.NLM_F_DUMP)
	req.AddData(header)
	return req
}

func (c *conn) addrs() (addrs []netlink.Addr, err error) {
	req := dumpRequest(unix.RTM_GETADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC))
	err = c.dump(req, func() { addrs = nil }, func(m []byte) error {
		if len(m) < unix.SizeofIfAddrmsg {
			return fmt.Errorf("an address message of %d bytes", len(m))
		}
		if a := parseAddr(m); a.IPNet != nil {
			addrs = append(addrs, a)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the addresses: %w", err)
	}
	return addrs, nil
}

func parseAddr(m []byte) (addr netlink.Addr) {
	msg := nl.DeserializeIfAddrmsg(m)
	addr.LinkIndex, addr.Scope, addr.Flags = int(msg.Index), int(msg.Scope), int(msg.Flags)
	var local, dst *net.IPNet
	for a := range attrs(m[unix.SizeofIfAddrmsg:]) {
		switch a.kind {
		case unix.IFA_ADDRESS:
			dst = ipnet(a.value, int(msg.Prefixlen))
		case unix.IFA_LOCAL:
			local = ipnet(a.value, int(msg.Prefixlen))
		case unix.IFA_LABEL:
			addr.Label = a.text()
		case unix.IFA_BROADCAST:
			addr.Broadcast = slices.Clone(a.value)
		case unix.IFA_FLAGS:
			addr.Flags = int(a.u32())
		case ifaProto:
			addr.Protocol = int(a.u8())
		case unix.IFA_CACHEINFO:
			if len(a.value) >= 8 {
				addr.PreferedLft, addr.ValidLft = int(nl.NativeEndian().Uint32(a.value)), int(nl.NativeEndian().Uint32(a.value[4:]))
			}
		}
	}
	// IFA_LOCAL is the address and IFA_ADDRESS the other end, where both are there and differ.
	switch {
	case local == nil:
		addr.IPNet = dst
	case dst == nil || local.IP.Equal(dst.IP):
		addr.IPNet = local
	default:
		addr.IPNet = ipnet(local.IP, 8*len(local.IP))
		addr.Peer = dst
	}
	return addr
}

func (c *conn) routes() (routes []netlink.Route, err error) {
	req := dumpRequest(unix.RTM_GETROUTE, &nl.RtMsg{})
	err = c.dump(req, func() { routes = nil }, func(m []byte) error {
		if len(m) < unix.SizeofRtMsg {
			return fmt.Errorf("a route message of %d bytes", len(m))
		}
		if r, ok := parseRoute(m); ok {
			routes = append(routes, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the routes: %w", err)
	}
	return routes, nil
}

func parseRoute(m []byte) (r netlink.Route, ok bool) {
	msg := nl.DeserializeRtMsg(m)
	size := 4
	switch {
	case msg.Flags&unix.RTM_F_CLONED != 0:
		return r, false
	case msg.Family == unix.AF_INET6:
		size = 16
	case msg.Family != unix.AF_INET:
		return r, false // multicast routing and MPLS answer too
	}
	r = netlink.Route{
		Family: int(msg.Family), Scope: netlink.Scope(msg.Scope), Protocol: netlink.RouteProtocol(msg.Protocol),
		Table: int(msg.Table), Type: int(msg.Type), Tos: int(msg.Tos), Flags: int(msg.Flags),
		Dst: ipnet(make([]byte, size), 0),
	}
	for a := range attrs(m[unix.SizeofRtMsg:]) {
		switch a.kind {
		case unix.RTA_DST:
			r.Dst = ipnet(a.value, int(msg.Dst_len))
		case unix.RTA_GATEWAY:
			r.Gw = slices.Clone(a.value)
		case unix.RTA_PREFSRC:
			r.Src = slices.Clone(a.value)
		case unix.RTA_OIF:
			r.LinkIndex = int(a.u32())
		case unix.RTA_IIF:
			r.ILinkIndex = int(a.u32())
		case unix.RTA_PRIORITY:
			r.Priority = int(a.u32())
		case unix.RTA_TABLE:
			r.Table = int(a.u32())
		case rtaNHID:
			r.NHID = a.u32()
		case unix.RTA_VIA:
			via := &netlink.Via{}
			if via.Decode(slices.Clone(a.value)) == nil {
				r.Via = via
			}
		case unix.RTA_METRICS:
			for metric := range attrs(a.value) {
				if metric.kind == unix.RTAX_MTU {
					r.MTU = int(metric.u32())
				}
			}
		case unix.RTA_MULTIPATH:
			r.MultiPath = nexthops(a.value)
		}
	}
	return r, true
}

func nexthops(b []byte) (hops []*netlink.NexthopInfo) {
	for len(b) >= unix.SizeofRtNexthop {
		nh := nl.DeserializeRtNexthop(b)
		size := int(nh.RtNexthop.Len)
		if size < unix.SizeofRtNexthop || size > len(b) {
			break
		}
		hop := &netlink.NexthopInfo{LinkIndex: int(nh.Ifindex), Hops: int(nh.Hops), Flags: int(nh.Flags)}
		for a := range attrs(b[unix.SizeofRtNexthop:size]) {
			if a.kind == unix.RTA_GATEWAY {
				hop.Gw = slices.Clone(a.value)
			}
		}
		hops = append(hops, hop)
		b = b[min((size+3)&^3, len(b)):]
	}
	return hops
}

const sizeofNdMsg = 12

// neighs lists neighbour entries, or with flag NTF_PROXY the proxy entries, which the kernel keeps apart.
func (c *conn) neighs(flag uint8) (neighs []Neigh, err error) {
	req := dumpRequest(unix.RTM_GETNEIGH, &netlink.Ndmsg{Flags: flag})
	err = c.dump(req, func() { neighs = nil }, func(m []byte) error {
		if len(m) < sizeofNdMsg {
			return fmt.Errorf("a neighbour message of %d bytes", len(m))
		}
		n := Neigh{Neigh: netlink.Neigh{
			Family: int(m[0]), LinkIndex: int(nl.NativeEndian().Uint32(m[4:])),
			State: int(nl.NativeEndian().Uint16(m[8:])), Flags: int(m[10]), Type: int(m[11]),
		}}
		for a := range attrs(m[sizeofNdMsg:]) {
			switch a.kind {
			case unix.NDA_DST:
				n.IP = slices.Clone(a.value)
			case unix.NDA_LLADDR:
				n.HardwareAddr = slices.Clone(a.value)
			case ndaProtocol:
				n.Protocol = int(a.u8())
			}
		}
		neighs = append(neighs, n)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the neighbours: %w", err)
	}
	return neighs, nil
}

func (c *conn) rules() (rules []netlink.Rule, err error) {
	req := dumpRequest(unix.RTM_GETRULE, &nl.RtMsg{})
	err = c.dump(req, func() { rules = nil }, func(m []byte) error {
		if len(m) < unix.SizeofRtMsg {
			return fmt.Errorf("a rule message of %d bytes", len(m))
		}
		if r, ok := parseRule(m); ok {
			rules = append(rules, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the rules: %w", err)
	}
	return rules, nil
}

func parseRule(m []byte) (netlink.Rule, bool) {
	msg := nl.DeserializeRtMsg(m)
	if msg.Family != unix.AF_INET && msg.Family != unix.AF_INET6 {
		return netlink.Rule{}, false
	}
	r := *netlink.NewRule()
	r.Priority, r.Family, r.Tos, r.Table, r.Type = 0, int(msg.Family), uint(msg.Tos), int(msg.Table), msg.Type
	r.Invert = msg.Flags&netlink.FibRuleInvert != 0
	for a := range attrs(m[unix.SizeofRtMsg:]) {
		switch a.kind {
		case nl.FRA_SRC:
			r.Src = ipnet(a.value, int(msg.Src_len))
		case nl.FRA_DST:
			r.Dst = ipnet(a.value, int(msg.Dst_len))
		case nl.FRA_TABLE:
			r.Table = int(a.u32())
		case nl.FRA_PRIORITY:
			r.Priority = int(a.u32())
		case nl.FRA_FWMARK:
			r.Mark = a.u32()
		case nl.FRA_FWMASK:
			mask := a.u32()
			r.Mask = &mask
		case nl.FRA_IIFNAME:
			r.IifName = a.text()
		case nl.FRA_OIFNAME:
			r.OifName = a.text()
		case nl.FRA_IP_PROTO:
			r.IPProto = int(a.u8())
		case nl.FRA_SUPPRESS_PREFIXLEN:
			r.SuppressPrefixlen = int(int32(a.u32()))
		case nl.FRA_GOTO:
			r.Goto = int(a.u32())
		case nl.FRA_PROTOCOL:
			r.Protocol = a.u8()
		}
	}
	return r, true
}

func ipnet(ip []byte, bits int) *net.IPNet {
	return &net.IPNet{IP: slices.Clone(ip), Mask: net.CIDRMask(bits, 8*len(ip))}
}

// Prefix turns a *net.IPNet of a dump into a netip.Prefix; the zero Prefix for nil.
func Prefix(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	ip, _ := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(ip.Unmap(), ones)
}
