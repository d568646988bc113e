package host

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Link is one device as a dump shows it: the netlink library's attributes, and those that the library leaves out. It is a
// netlink.Link.
type Link struct {
	netlink.LinkAttrs
	Kind string // "veth", "bridge", ...; "" for a physical device
	// Mode is the type's own number for its mode: of macvlan, ipvlan and netkit.
	Mode uint32
	// AddrGenMode is how IPv6 link-local addresses come about, a number of the kernel's; -1 without IPv6.
	AddrGenMode int
	// Policy and PeerPolicy are netkit's verdicts without a program.
	Policy, PeerPolicy uint32
	// STP, ForwardDelay (in 1/100 s) and Snooping are a bridge's settings.
	STP, ForwardDelay uint32
	Snooping          bool
	// Qdisc is the type of the queueing discipline at the root, TxQueues for how many queues the device has room.
	Qdisc    string
	TxQueues int
	// TSOMaxSize is the largest GSOMaxSize that the driver takes; 0 where the kernel doesn't say (before 5.19).
	TSOMaxSize uint32
	// XDP are the programs on the device's earliest hook, at most one in each mode.
	XDP []XDP
	// Hairpin says that a bridge's port sends out frames that came in by it.
	Hairpin bool
}

// Attrs implements netlink.Link.
func (l *Link) Attrs() *netlink.LinkAttrs { return &l.LinkAttrs }

// Type implements netlink.Link.
func (l *Link) Type() string {
	if l.Kind == "" {
		return "device"
	}
	return l.Kind
}

// Up reports whether the device has been set up; its carrier may still be missing.
func (l *Link) Up() bool { return l.RawFlags&unix.IFF_UP != 0 }

const skipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS

func (c *conn) links() (links []*Link, err error) {
	req := dumpRequest(unix.RTM_GETLINK, nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)))
	err = c.dump(req, func() { links = nil }, func(m []byte) error {
		l, err := parseLink(m)
		links = append(links, l)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the links: %w", err)
	}
	return links, nil
}

func parseLink(m []byte) (*Link, error) {
	if len(m) < unix.SizeofIfInfomsg {
		return nil, fmt.Errorf("a link message of %d bytes", len(m))
	}
	msg := nl.DeserializeIfInfomsg(m)
	l := &Link{AddrGenMode: -1}
	l.Index, l.RawFlags, l.EncapType, l.NetNsID = int(msg.Index), msg.Flags, msg.EncapType(), -1
	for a := range attrs(m[unix.SizeofIfInfomsg:]) {
		switch a.kind {
		case unix.IFLA_IFNAME:
			l.Name = a.text()
		case unix.IFLA_IFALIAS:
			l.Alias = a.text()
		case unix.IFLA_PROP_LIST:
			for p := range attrs(a.value) {
				if p.kind == unix.IFLA_ALT_IFNAME {
					l.AltNames = append(l.AltNames, p.text())
				}
			}
		case unix.IFLA_ADDRESS:
			if slices.ContainsFunc(a.value, func(b byte) bool { return b != 0 }) {
				l.HardwareAddr = slices.Clone(a.value)
			}
		case unix.IFLA_MTU:
			l.MTU = int(a.u32())
		case unix.IFLA_QDISC:
			l.Qdisc = a.text()
		case unix.IFLA_NUM_TX_QUEUES:
			l.TxQueues = int(a.u32())
		case unix.IFLA_GSO_MAX_SIZE:
			l.GSOMaxSize = a.u32()
		case unix.IFLA_GRO_MAX_SIZE:
			l.GROMaxSize = a.u32()
		case unix.IFLA_GSO_IPV4_MAX_SIZE:
			l.GSOIPv4MaxSize = a.u32()
		case unix.IFLA_GRO_IPV4_MAX_SIZE:
			l.GROIPv4MaxSize = a.u32()
		case unix.IFLA_TSO_MAX_SIZE:
			l.TSOMaxSize = a.u32()
		case unix.IFLA_XDP:
			l.XDP = readXDP(a.value)
		case unix.IFLA_LINK:
			l.ParentIndex = int(a.u32())
		case unix.IFLA_LINK_NETNSID:
			l.NetNsID = int(int32(a.u32()))
		case unix.IFLA_MASTER:
			l.MasterIndex = int(a.u32())
		case unix.IFLA_GROUP:
			l.Group = a.u32()
		case unix.IFLA_TXQLEN:
			l.TxQLen = int(a.u32())
		case unix.IFLA_OPERSTATE:
			l.OperState = netlink.LinkOperState(a.u8())
		case unix.IFLA_AF_SPEC:
			for f := range attrs(a.value) {
				if f.kind != unix.AF_INET6 {
					continue
				}
				for i := range attrs(f.value) {
					if i.kind == unix.IFLA_INET6_ADDR_GEN_MODE {
						l.AddrGenMode = int(i.u8())
					}
				}
			}
		case unix.IFLA_LINKINFO:
			var data, port []byte
			var master string
			for i := range attrs(a.value) {
				switch i.kind {
				case nl.IFLA_INFO_KIND:
					l.Kind = i.text()
				case nl.IFLA_INFO_DATA:
					data = i.value
				case nl.IFLA_INFO_SLAVE_KIND:
					master = i.text()
				case nl.IFLA_INFO_SLAVE_DATA:
					port = i.value
				}
			}
			l.details(data)
			for p := range attrs(port) {
				if master == "bridge" && p.kind == nl.IFLA_BRPORT_MODE {
					l.Hairpin = p.u8() != 0
				}
			}
		}
	}
	return l, nil
}

// details reads the attributes of the device's own type.
func (l *Link) details(data []byte) {
	for a := range attrs(data) {
		switch {
		case l.Kind == "macvlan" && a.kind == nl.IFLA_MACVLAN_MODE,
			l.Kind == "netkit" && a.kind == nl.IFLA_NETKIT_MODE:
			l.Mode = a.u32()
		case l.Kind == "ipvlan" && a.kind == nl.IFLA_IPVLAN_MODE:
			l.Mode = uint32(a.u16())
		case l.Kind == "netkit" && a.kind == nl.IFLA_NETKIT_POLICY:
			l.Policy = a.u32()
		case l.Kind == "netkit" && a.kind == nl.IFLA_NETKIT_PEER_POLICY:
			l.PeerPolicy = a.u32()
		case l.Kind == "bridge" && a.kind == nl.IFLA_BR_STP_STATE:
			l.STP = a.u32()
		case l.Kind == "bridge" && a.kind == nl.IFLA_BR_FORWARD_DELAY:
			l.ForwardDelay = a.u32()
		case l.Kind == "bridge" && a.kind == nl.IFLA_BR_MCAST_SNOOPING:
			l.Snooping = a.u8() != 0
		}
	}
}

// link asks for one device by name.
func (c *conn) link(name string) (l *Link, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_EXT_MASK, nl.Uint32Attr(skipStats)))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	err = c.once(req, func(m []byte) error {
		l, err = parseLink(m)
		return err
	})
	return l, err
}
