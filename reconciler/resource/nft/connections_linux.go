package nft

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Connections counts the flows of the kernel's connection table that are led to backends; nil where the kernel has no
// way to list them.
type Connections map[connection]int

// connection is one backend of one frontend.
type connection struct {
	resource.FrontendKey
	backend netip.AddrPort
}

// To counts those to one backend of a frontend.
func (c Connections) To(f resource.Frontend, b resource.Backend) int {
	return c[connection{f.Key(), b.At()}]
}

// ReadConnections reads the connection table of the node's root namespace.
func ReadConnections(h *host.Host) (n Connections, err error) {
	err = inRoot(h, func() error {
		n, err = connections()
		return err
	})
	return n, err
}

// connections reads the connection table of the calling thread's namespace. What has ended doesn't count.
func connections() (Connections, error) {
	c, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("open the connection table: %w", err)
	}
	defer c.Close()
	n := Connections{}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := c.ConntrackTableList(netlink.ConntrackTable, family)
		switch {
		case noConntrack(err):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("list the connection table: %w", err)
		}
		for _, f := range flows {
			if over(f) {
				continue
			}
			protocol := "UDP"
			if f.Forward.Protocol == unix.IPPROTO_TCP {
				protocol = "TCP"
			}
			key := resource.FrontendKey{At: addrPort(f.Forward.DstIP, f.Forward.DstPort), Protocol: protocol}
			n[connection{key, addrPort(f.Reverse.SrcIP, f.Reverse.SrcPort)}]++
		}
	}
	return n, nil
}

// noConntrack reports whether an error says that the kernel has no ctnetlink.
func noConntrack(err error) bool {
	return errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// over reports whether a TCP connection has ended and is only remembered.
func over(f *netlink.ConntrackFlow) bool {
	tcp, ok := f.ProtoInfo.(*netlink.ProtoInfoTCP)
	return ok && (tcp.State == nl.TCP_CONNTRACK_TIME_WAIT || tcp.State == nl.TCP_CONNTRACK_CLOSE)
}

// busy reports whether a table leads connections to backends just now, or whether nobody can tell.
func busy(t Table) (bool, error) {
	n, err := connections()
	if err != nil || n == nil {
		return true, err
	}
	ours := make(map[resource.FrontendKey]bool, len(t.Frontends))
	for key := range t.Carries() {
		ours[key] = true
	}
	for c := range n {
		// To a service without a backend there may be flows that were there before it.
		if ours[c.FrontendKey] && c.backend != c.At {
			return true, nil
		}
	}
	return false, nil
}
