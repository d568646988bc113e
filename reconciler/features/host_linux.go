package features

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/firewall"
)

// ownGroup is the group of the links that this program makes. They come and go with every apply, so they are no facts
// of the host. The queueing disciplines that it puts at the roots of others' devices have the same number as handle.
const ownGroup = 0x706c

// hostFacts reads the memory, the processors and the devices of the network namespace that the calling thread is in. It
// asks netlink rather than /sys, which shows the namespace that was current when it was mounted.
func hostFacts() (*HostFacts, error) {
	facts := &HostFacts{Devices: map[string]Device{}}
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return nil, fmt.Errorf("read memory size: %w", err)
	}
	facts.MemoryBytes = int64(si.Totalram) * int64(si.Unit)

	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return nil, fmt.Errorf("count processors: %w", err)
	}
	// One line for all of them together, then one for each that is online.
	facts.CPUs = bytes.Count(stat, []byte("\ncpu"))

	h, err := netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_GENERIC)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	links, err := listLinks(h)
	if err != nil {
		return nil, err
	}
	netdev, err := h.GenlFamilyGet("netdev")
	if err != nil {
		netdev = nil
	}
	wireless, err := wirelessLinks(h)
	if err != nil {
		return nil, err
	}
	most, err := largestMTUs()
	if err != nil {
		return nil, err
	}
	qdiscs, err := othersQdiscs()
	if err != nil {
		return nil, err
	}
	m, err := lookAtMachine()
	if err != nil {
		return nil, err
	}
	defer m.done()
	facts.Guest, facts.OnlineCPUs, facts.IsolatedCPUs, facts.Governors = m.guest, m.online, m.isolated, m.governors
	for _, l := range links {
		a := l.Attrs()
		if a.Group == ownGroup || a.Flags&net.FlagLoopback != 0 {
			continue
		}
		d := Device{MTU: a.MTU, NoEthernet: a.EncapType != "ether", Driver: driver(a.Name), Wireless: wireless[a.Index], GSOLimit: int(a.TSOMaxSize)}
		m.describe(a.Name, &d)
		d.MaxMTU, d.Qdisc = most[a.Index], qdiscs[a.Index]
		d.askDriver(a.Name)
		d.XDP, d.Reason, d.XDPUnknown = xdpMode(netdev, a.Index)
		facts.Devices[a.Name] = d
	}
	if facts.Firewall, facts.Translating, err = firewall.Others(); err != nil {
		return nil, err
	}
	facts.LocalPorts = strings.Join(strings.Fields(line("/proc/sys/net/ipv4/ip_local_port_range")), "-")
	facts.Congestion, facts.Sysctls, facts.Preempt = congestion(), sysctls(), preempt()
	return facts, nil
}

// xdpMode says how XDP could be attached to a device, and how that is known. Nothing is attached to find out.
func xdpMode(netdev *netlink.GenlFamily, index int) (mode, reason string, unknown bool) {
	if netdev == nil {
		return "generic", "whether the driver has native XDP is not known: this kernel has no netlink family netdev to ask (since 6.3)", true
	}
	f, err := xdpFeatures(netdev, index)
	switch {
	case err != nil:
		return "generic", fmt.Sprintf("whether the driver has native XDP is not known: ask netlink family netdev: %v", err), true
	case f&netdevXDPBasic != 0:
		return "native", "the driver reports native XDP", false
	}
	return "generic", "the driver reports no native XDP", false
}

// listLinks dumps the links; a dump that something else changed underneath is taken again.
func listLinks(h *netlink.Handle) ([]netlink.Link, error) {
	for range 5 {
		links, err := h.LinkList()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			if err != nil {
				return nil, fmt.Errorf("list links: %w", err)
			}
			return links, nil
		}
	}
	return nil, fmt.Errorf("list links: %w", netlink.ErrDumpInterrupted)
}

// driver asks the device for the name of its driver, as ethtool -i prints it. Devices that have none give "".
func driver(name string) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	if err != nil {
		return ""
	}
	return unix.ByteSliceToString(info.Driver[:])
}

// Numbers of linux/netdev.h and linux/nl80211.h.
const (
	netdevCmdDevGet       = 1
	netdevAttrIfindex     = 1
	netdevAttrXDPFeatures = 3
	netdevXDPBasic        = 1 // drop, pass and transmit in the driver

	nl80211CmdGetInterface = 5
	nl80211AttrIfindex     = 3
)

// xdpFeatures returns what the driver of a device says of its XDP. It asks for one device at a time: a dump of this family
// lacks the flag that says there is more, so the netlink package stops after the first.
func xdpFeatures(f *netlink.GenlFamily, index int) (uint64, error) {
	req := nl.NewNetlinkRequest(int(f.ID), 0)
	req.AddData(&nl.Genlmsg{Command: netdevCmdDevGet, Version: 1})
	req.AddData(nl.NewRtAttr(netdevAttrIfindex, nl.Uint32Attr(uint32(index))))
	answers, err := genl(req)
	if err != nil {
		return 0, err
	}
	for _, attrs := range answers {
		if v := attrs[netdevAttrXDPFeatures]; len(v) == 8 {
			return binary.NativeEndian.Uint64(v), nil
		}
	}
	return 0, errors.New("the kernel gave no answer")
}

// wirelessLinks returns the interface indexes of Wi-Fi devices. A kernel that has no nl80211 family has none.
func wirelessLinks(h *netlink.Handle) (map[int]bool, error) {
	found := map[int]bool{}
	f, err := h.GenlFamilyGet("nl80211")
	if err != nil {
		return found, nil
	}
	req := nl.NewNetlinkRequest(int(f.ID), unix.NLM_F_DUMP)
	req.AddData(&nl.Genlmsg{Command: nl80211CmdGetInterface, Version: 1})
	answers, err := genl(req)
	if err != nil {
		return nil, fmt.Errorf("list Wi-Fi devices: %w", err)
	}
	for _, attrs := range answers {
		if v := attrs[nl80211AttrIfindex]; len(v) == 4 {
			found[int(binary.NativeEndian.Uint32(v))] = true
		}
	}
	return found, nil
}

// genl sends a request of generic netlink and returns the attributes of each answer.
func genl(req *nl.NetlinkRequest) ([]map[uint16][]byte, error) {
	msgs, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return nil, err
	}
	var answers []map[uint16][]byte
	for _, m := range msgs {
		if len(m) < nl.SizeofGenlmsg {
			continue
		}
		parsed, err := nl.ParseRouteAttr(m[nl.SizeofGenlmsg:])
		if err != nil {
			return nil, fmt.Errorf("read attributes: %w", err)
		}
		attrs := map[uint16][]byte{}
		for _, a := range parsed {
			attrs[a.Attr.Type] = a.Value
		}
		answers = append(answers, attrs)
	}
	return answers, nil
}
