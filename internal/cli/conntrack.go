package cli

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
)

// tracked is one backend of one frontend, as the kernel's connection table knows them.
type tracked struct {
	protocol          string
	frontend, backend netip.AddrPort
}

// readConntrack counts the flows that nftables leads to each backend; nil where the kernel doesn't tell.
func readConntrack(h *host.Host) (map[tracked]int, error) {
	root, err := h.NS("")
	if err != nil {
		return nil, err
	}
	fd, err := root.FD()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	c, err := netlink.NewHandleAt(vnetns.NsHandle(fd), unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open the connection table: %w", err)
	}
	defer c.Close()
	n := map[tracked]int{}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := c.ConntrackTableList(netlink.ConntrackTable, family)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
			return nil, nil // no ctnetlink
		}
		if err != nil {
			return nil, fmt.Errorf("list the connection table: %w", err)
		}
		for _, f := range flows {
			if !over(f) {
				n[trackedOf(f)]++
			}
		}
	}
	return n, nil
}

func trackedOf(f *netlink.ConntrackFlow) tracked {
	protocol := "UDP"
	if f.Forward.Protocol == unix.IPPROTO_TCP {
		protocol = "TCP"
	}
	return tracked{protocol, addrPort(f.Forward.DstIP, f.Forward.DstPort), addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort)}
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}

// over reports whether a TCP connection has ended and is only remembered.
func over(f *netlink.ConntrackFlow) bool {
	tcp, ok := f.ProtoInfo.(*netlink.ProtoInfoTCP)
	return ok && (tcp.State == nl.TCP_CONNTRACK_TIME_WAIT || tcp.State == nl.TCP_CONNTRACK_CLOSE)
}
