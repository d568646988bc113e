package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/netns"
)

// wire joins the nodes: their k-th uplinks are ports of the underlay's bridge netk, which has the address of a router in
// each of their networks. The underlay routes between the networks, and podCIDRs to their nodes.
func (l *Lab) wire() error {
	under, underNS, err := openNS(l.Underlay)
	if err != nil {
		return err
	}
	defer under.Close()
	defer underNS.Close()
	if err := forward(int(underNS.Fd())); err != nil {
		return err
	}
	var bridges []netlink.Link
	for i, n := range l.Nodes {
		h, ns, err := openNS(n.PID)
		if err != nil {
			return err
		}
		defer h.Close()
		defer ns.Close()
		for k, up := range n.Uplinks {
			if k == len(bridges) {
				br, err := addBridge(under, fmt.Sprintf("net%d", k), l.routers(k))
				if err != nil {
					return err
				}
				bridges = append(bridges, br)
			}
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.MasterIndex, attrs.MTU = fmt.Sprintf("node%d-%d", i, k), bridges[k].Attrs().Index, n.UplinkMTU
			veth := &netlink.Veth{LinkAttrs: attrs, PeerName: up.Name, PeerNamespace: netlink.NsFd(int(ns.Fd())), PeerMTU: uint32(n.UplinkMTU),
				PeerTxQLen: -1} // the default; to a device without a queue the kernel gives one with its first qdisc
			if err := under.LinkAdd(veth); err != nil {
				return fmt.Errorf("add uplink %s of node %s: %w", up.Name, n.Name, err)
			}
			if err := under.LinkSetUp(veth); err != nil {
				return fmt.Errorf("set the underlay's end of uplink %s up: %w", up.Name, err)
			}
			if err := configure(h, up, l.routers(k)); err != nil {
				return fmt.Errorf("set uplink %s of node %s up: %w", up.Name, n.Name, err)
			}
		}
		if err := routePods(under, n); err != nil {
			return err
		}
	}
	return nil
}

// openNS opens the network namespace of a holder.
func openNS(pid int) (*netlink.Handle, *os.File, error) {
	f, _, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, nil, fmt.Errorf("open the namespace of process %d: %w", pid, err)
	}
	h, err := netlink.NewHandleAt(vnetns.NsHandle(f.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("open netlink in the namespace of process %d: %w", pid, err)
	}
	return h, f, nil
}

// forward lets the underlay route.
func forward(fd int) error {
	return netns.Do(fd, func() error {
		for _, file := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"} {
			if err := os.WriteFile(file, []byte("1"), 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("let the underlay forward: %w", err)
			}
		}
		return nil
	})
}

func addBridge(h *netlink.Handle, name string, addrs []netip.Prefix) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	br := &netlink.Bridge{LinkAttrs: attrs}
	if err := h.LinkAdd(br); err != nil {
		return nil, fmt.Errorf("add bridge %s to the underlay: %w", name, err)
	}
	if err := h.LinkSetUp(br); err != nil {
		return nil, fmt.Errorf("set bridge %s up: %w", name, err)
	}
	for _, a := range addrs {
		if err := h.AddrAdd(br, address(a)); err != nil {
			return nil, fmt.Errorf("add address %s to bridge %s: %w", a, name, err)
		}
	}
	return br, nil
}

// configure brings up the node's end of an uplink, with a default route through each router.
func configure(h *netlink.Handle, up Uplink, routers []netip.Prefix) error {
	link, err := h.LinkByName(up.Name)
	if err != nil {
		return fmt.Errorf("find link: %w", err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set link up: %w", err)
	}
	var families []bool
	for _, text := range up.Addresses {
		a, err := netip.ParsePrefix(text)
		if err != nil {
			return fmt.Errorf("read address: %w", err)
		}
		if err := h.AddrAdd(link, address(a)); err != nil {
			return fmt.Errorf("add address %s: %w", a, err)
		}
		i := slices.IndexFunc(routers, func(r netip.Prefix) bool { return r.Masked() == a.Masked() })
		if i < 0 || slices.Contains(families, a.Addr().Is4()) {
			continue
		}
		families = append(families, a.Addr().Is4())
		// A second uplink's default route stands behind the first one's.
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Gw: routers[i].Addr().AsSlice(), Priority: 100 + link.Attrs().Index}
		if err := h.RouteAdd(route); err != nil {
			return fmt.Errorf("add default route through %s: %w", routers[i].Addr(), err)
		}
	}
	return waitReady(h, up)
}

// waitReady waits until the kernel has noticed a device's carrier, and then has made its IPv6 addresses' local routes: before
// that they don't work.
func waitReady(h *netlink.Handle, up Uplink) error {
	const patience = 5 * time.Second
	late := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		missing, err := unready(h, up)
		if err != nil || missing == "" {
			return err
		}
		select {
		case <-tick.C:
		case <-late:
			return fmt.Errorf("%s after %s", missing, patience)
		}
	}
}

// unready says what an uplink still lacks, or nothing.
func unready(h *netlink.Handle, up Uplink) (string, error) {
	link, err := h.LinkByName(up.Name)
	if err != nil {
		return "", fmt.Errorf("find link: %w", err)
	}
	if state := link.Attrs().OperState; state != netlink.OperUp {
		return fmt.Sprintf("link %s is still %s", up.Name, state), nil
	}
	local := &netlink.Route{LinkIndex: link.Attrs().Index, Table: unix.RT_TABLE_LOCAL}
	routes, err := h.RouteListFiltered(netlink.FAMILY_V6, local, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	if err != nil {
		return "", fmt.Errorf("list local routes: %w", err)
	}
	for _, text := range up.Addresses {
		a, err := netip.ParsePrefix(text)
		if err != nil {
			return "", fmt.Errorf("read address: %w", err)
		}
		if a.Addr().Is6() && !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.IP.Equal(a.Addr().AsSlice()) }) {
			return fmt.Sprintf("address %s has no local route yet", a), nil
		}
	}
	return "", nil
}

// routePods leads the node's podCIDRs to it, as the router of a real network would.
func routePods(under *netlink.Handle, n Node) error {
	for _, text := range n.PodCIDRs {
		cidr, err := netip.ParsePrefix(text)
		if err != nil || len(n.Uplinks) == 0 {
			continue // the compiler's to say
		}
		for _, a := range n.Uplinks[0].Addresses {
			via, err := netip.ParsePrefix(a)
			if err != nil || via.Addr().Is4() != cidr.Addr().Is4() {
				continue
			}
			dst := cidr.Masked()
			route := &netlink.Route{
				Dst: &net.IPNet{IP: dst.Addr().AsSlice(), Mask: net.CIDRMask(dst.Bits(), dst.Addr().BitLen())},
				Gw:  via.Addr().AsSlice(),
			}
			if err := under.RouteAdd(route); err != nil {
				return fmt.Errorf("route %s to node %s: %w", cidr, n.Name, err)
			}
			break
		}
	}
	return nil
}

func address(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD // duplicate detection would keep it tentative for a second
	}
	return a
}
