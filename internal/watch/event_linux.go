package watch

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/reconciler/resource"
)

var native = binary.NativeEndian

// Event is one thing that happened to the kernel's tables.
type Event struct {
	NetNS   string        // of the pod; "" for the root namespace
	Kind    resource.Kind // of the object, as far as there is a kind for it; "" where more may have changed
	Name    string        // of a route its destination, of other objects their device or address; "" unknown
	Removed bool
	// By says who did it, as far as the kernel tells: the protocol of a route that took ours' place, the process that asked.
	By string
	At time.Time
}

// rtGroups are the groups of rtnetlink that are listened to.
var rtGroups = []int{
	unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_TC, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR,
	unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF, unix.RTNLGRP_NSID,
}

// Attributes of messages, and sizes of what stands before them.
const (
	ndaDst, ndaProtocol, ndMsgLen = 1, 12, 12
	iflaName                      = 3
	iflaWireless                  = 11
	ifaAddress, ifaLocal          = 1, 2
	rtaDst                        = 1
	netnsaNSID                    = 1
	nftaTable                     = 1
	rtmFCloned                    = 0x200
)

// message is one netlink message.
type message struct {
	kind, flags uint16
	port        uint32 // of who asked for it
	ns          int32
	data        []byte
}

// messages walks a datagram.
func messages(b []byte, ns int32, f func(m message)) {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(native.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return
		}
		f(message{native.Uint16(b[4:]), native.Uint16(b[6:]), native.Uint32(b[12:]), ns, b[unix.NLMSG_HDRLEN:size]})
		b = b[min((size+3)&^3, len(b)):]
	}
}

// attrs returns the attributes behind a header of some length, the last of each type.
func (m message) attrs(header int) map[uint16][]byte {
	all := map[uint16][]byte{}
	if len(m.data) < header {
		return all
	}
	for b := m.data[header:]; len(b) >= unix.SizeofRtAttr; {
		size := int(native.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			break
		}
		all[native.Uint16(b[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER)] = b[unix.SizeofRtAttr:size]
		b = b[min((size+3)&^3, len(b)):]
	}
	return all
}

// routeMessage notes a message of rtnetlink if it may concern the node.
func (k *Kernel) routeMessage(m message) {
	if m.kind == unix.RTM_DELNSID || m.kind == unix.RTM_NEWNSID {
		if m.ns == -1 {
			k.numbered(m)
		}
		return
	}
	e := Event{}
	if m.ns != -1 {
		pod, ok := k.names[m.ns]
		if !ok {
			return // a container of somebody else's
		}
		e.NetNS = pod
	}
	if !m.describe(&e) {
		return
	}
	if e.By == "" {
		e.By = process(m.port)
	}
	k.add(e)
}

// describe says what a message is about, and whether it can concern an object of plumb's.
func (m message) describe(e *Event) bool {
	switch m.kind {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		a := m.attrs(unix.SizeofIfInfomsg)
		if a[iflaWireless] != nil {
			return false // a scan
		}
		e.Kind, e.Name, e.Removed = "link", text(a[iflaName]), m.kind == unix.RTM_DELLINK
	case unix.RTM_NEWADDR, unix.RTM_DELADDR:
		a := m.attrs(unix.SizeofIfAddrmsg)
		local := a[ifaLocal]
		if local == nil {
			local = a[ifaAddress]
		}
		e.Kind, e.Name, e.Removed = "addr", address(local), m.kind == unix.RTM_DELADDR
	case unix.RTM_NEWROUTE, unix.RTM_DELROUTE:
		return m.describeRoute(e)
	case unix.RTM_NEWRULE, unix.RTM_DELRULE:
		e.Kind, e.Removed = "rule", m.kind == unix.RTM_DELRULE
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		return m.describeNeigh(e)
	case unix.RTM_NEWNETCONF, unix.RTM_DELNETCONF:
		e.Kind = "sysctl"
	default: // traffic control, where programs sit on kernels without tcx
		e.Kind = "bpflink"
	}
	return true
}

// describeRoute leaves out the routes of others, of which there may be a million, unless one took the place of another: the
// protocol isn't part of a route's key.
func (m message) describeRoute(e *Event) bool {
	if len(m.data) < unix.SizeofRtMsg || native.Uint32(m.data[8:])&rtmFCloned != 0 {
		return false
	}
	protocol := m.data[5]
	if protocol != resource.Protocol && m.flags&unix.NLM_F_REPLACE == 0 {
		return false
	}
	e.Kind, e.Removed = "route", m.kind == unix.RTM_DELROUTE
	e.Name = "default"
	if dst := address(m.attrs(unix.SizeofRtMsg)[rtaDst]); dst != "" {
		e.Name = fmt.Sprintf("%s/%d", dst, m.data[1])
	}
	if protocol != resource.Protocol {
		e.By = "a route of protocol " + protocolName(protocol)
	}
	return true
}

// describeNeigh leaves out what the kernel learns by itself.
func (m message) describeNeigh(e *Event) bool {
	if len(m.data) < ndMsgLen {
		return false
	}
	a := m.attrs(ndMsgLen)
	state := native.Uint16(m.data[8:])
	ours := len(a[ndaProtocol]) > 0 && a[ndaProtocol][0] == resource.Protocol
	if !ours && state&unix.NUD_PERMANENT == 0 && m.data[10]&unix.NTF_PROXY == 0 {
		return false
	}
	e.Kind, e.Name, e.Removed = "neigh", address(a[ndaDst]), m.kind == unix.RTM_DELNEIGH
	return true
}

// numbered forgets the number of a namespace that is gone: another may get it.
func (k *Kernel) numbered(m message) {
	if m.kind == unix.RTM_NEWNSID {
		return
	}
	number := m.attrs(4)[netnsaNSID]
	if len(number) < 4 {
		return
	}
	n := int32(native.Uint32(number))
	for id, known := range k.numbers {
		if known == n {
			delete(k.numbers, id)
		}
	}
	if pod, ok := k.names[n]; ok {
		delete(k.names, n)
		k.add(Event{NetNS: pod, Kind: "netns", Name: pod, Removed: true})
	}
}

// nftMessage notes a message that is about plumb's table. Each of a foreign transaction's many names its own.
func (k *Kernel) nftMessage(m message) {
	const nfgenmsg = 4
	if m.kind>>8 != unix.NFNL_SUBSYS_NFTABLES || m.kind&0xff == unix.NFT_MSG_NEWGEN {
		return
	}
	if text(m.attrs(nfgenmsg)[nftaTable]) == resource.NftTable {
		k.add(Event{Kind: "nft", Name: resource.NftTable, Removed: m.kind&0xff == unix.NFT_MSG_DELTABLE, By: process(m.port)})
	}
}

// process names who asked the kernel for a change. The number of a netlink socket is the process's id as a rule.
func process(port uint32) string {
	if port == 0 || int32(port) < 0 || int(port) == os.Getpid() {
		return ""
	}
	if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", port)); err == nil {
		return fmt.Sprintf("process %d (%s)", port, strings.TrimSpace(string(name)))
	}
	return fmt.Sprintf("process %d", port)
}

// protocolName is the name of a route's protocol, as in /etc/iproute2/rt_protos.
func protocolName(p uint8) string {
	names := map[uint8]string{
		unix.RTPROT_REDIRECT: "redirect", unix.RTPROT_KERNEL: "kernel", unix.RTPROT_BOOT: "boot", unix.RTPROT_STATIC: "static",
		unix.RTPROT_RA: "ra", unix.RTPROT_DHCP: "dhcp", unix.RTPROT_ZEBRA: "zebra", unix.RTPROT_BIRD: "bird",
		unix.RTPROT_KEEPALIVED: "keepalived", unix.RTPROT_BABEL: "babel", unix.RTPROT_BGP: "bgp", unix.RTPROT_ISIS: "isis",
		unix.RTPROT_OSPF: "ospf", unix.RTPROT_RIP: "rip", unix.RTPROT_EIGRP: "eigrp",
	}
	if n, ok := names[p]; ok {
		return n
	}
	return fmt.Sprint(p)
}

func address(b []byte) string {
	a, ok := netip.AddrFromSlice(b)
	if !ok {
		return ""
	}
	return a.String()
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }
