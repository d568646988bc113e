package features

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ownGroup is the group of the links that this program makes. They come and go with every apply, so they are no facts
// of the host.
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
	xdp, xdpErr := xdpFeatures(h)
	wireless := wirelessLinks(h)
	for _, l := range links {
		a := l.Attrs()
		if a.Group == ownGroup || a.Flags&net.FlagLoopback != 0 {
			continue
		}
		d := Device{MTU: a.MTU, Driver: driver(a.Name), Wireless: wireless[uint32(a.Index)]}
		d.XDP, d.Reason = "generic", "the driver reports no native XDP"
		switch {
		case xdpErr != nil:
			d.Reason = fmt.Sprintf("whether the driver has native XDP is not known: %v", xdpErr)
		case xdp[uint32(a.Index)]&netdevXDPBasic != 0:
			d.XDP, d.Reason = "native", "the driver reports native XDP"
		}
		facts.Devices[a.Name] = d
	}
	return facts, nil
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

// xdpFeatures returns what each device's driver says of its XDP, by interface index.
func xdpFeatures(h *netlink.Handle) (map[uint32]uint64, error) {
	found := map[uint32]uint64{}
	err := dumpGenl(h, "netdev", netdevCmdDevGet, func(attrs map[uint16][]byte) {
		if i, f := attrs[netdevAttrIfindex], attrs[netdevAttrXDPFeatures]; len(i) == 4 && len(f) == 8 {
			found[binary.NativeEndian.Uint32(i)] = binary.NativeEndian.Uint64(f)
		}
	})
	if errors.Is(err, unix.ENOENT) {
		return nil, errors.New("this kernel has no netdev netlink family to ask (since 6.3)")
	}
	return found, err
}

// wirelessLinks returns the interface indexes of Wi-Fi devices. A kernel that has no nl80211 family has none.
func wirelessLinks(h *netlink.Handle) map[uint32]bool {
	found := map[uint32]bool{}
	_ = dumpGenl(h, "nl80211", nl80211CmdGetInterface, func(attrs map[uint16][]byte) {
		if i := attrs[nl80211AttrIfindex]; len(i) == 4 {
			found[binary.NativeEndian.Uint32(i)] = true
		}
	})
	return found
}

// dumpGenl calls each with the attributes of every answer to a dump of a generic netlink family.
func dumpGenl(h *netlink.Handle, family string, cmd uint8, each func(map[uint16][]byte)) error {
	f, err := h.GenlFamilyGet(family)
	if err != nil {
		return fmt.Errorf("find netlink family %s: %w", family, err)
	}
	req := nl.NewNetlinkRequest(int(f.ID), unix.NLM_F_DUMP)
	req.AddData(&nl.Genlmsg{Command: cmd, Version: 1})
	msgs, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return fmt.Errorf("dump netlink family %s: %w", family, err)
	}
	for _, m := range msgs {
		if len(m) < nl.SizeofGenlmsg {
			continue
		}
		parsed, err := nl.ParseRouteAttr(m[nl.SizeofGenlmsg:])
		if err != nil {
			return fmt.Errorf("read netlink family %s: %w", family, err)
		}
		attrs := map[uint16][]byte{}
		for _, a := range parsed {
			attrs[a.Attr.Type] = a.Value
		}
		each(attrs)
	}
	return nil
}
