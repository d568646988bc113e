package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/netns"
)

// bed is a node with one client pod and some server pods.
type bed struct {
	attach  string
	node    *os.File
	client  *os.File
	servers []*os.File
	backend []netip.Addr // of the servers
}

// The addresses: the node is .1, which is the gateway too.
var (
	podPrefix  = netip.MustParsePrefix("10.0.0.0/24")
	nodeAddr   = netip.MustParseAddr("10.0.0.1")
	clientAddr = netip.MustParseAddr("10.0.0.2")
)

// newBed makes the namespaces and connects the pods. Whatever it made goes with close.
func newBed(attach string, servers int) (b *bed, err error) {
	b = &bed{attach: attach}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.node, err = netns.New(func() error {
		return write(map[string]string{
			"net/ipv4/ip_forward":                              "1",
			"net/ipv4/conf/all/send_redirects":                 "0",
			"net/ipv4/conf/default/send_redirects":             "0",
			"net/ipv4/conf/all/rp_filter":                      "0",
			"net/ipv4/conf/default/rp_filter":                  "0",
			"net/bridge/bridge-nf-call-iptables":               "0",
			"net/netfilter/nf_conntrack_tcp_timeout_close":     "1",
			"net/netfilter/nf_conntrack_tcp_timeout_time_wait": "1",
		})
	}); err != nil {
		return b, err
	}
	h, err := handle(b.node)
	if err != nil {
		return b, err
	}
	defer h.Close()
	if err := up(h, "lo"); err != nil {
		return b, err
	}
	if err := b.ground(h); err != nil {
		return b, err
	}
	if b.client, err = b.pod(h, clientAddr); err != nil {
		return b, fmt.Errorf("make the client: %w", err)
	}
	addr := clientAddr
	for range servers {
		addr = addr.Next()
		f, err := b.pod(h, addr)
		if err != nil {
			return b, fmt.Errorf("make server %s: %w", addr, err)
		}
		b.servers, b.backend = append(b.servers, f), append(b.backend, addr)
	}
	return b, nil
}

// close lets the namespaces go; what is in them goes with them.
func (b *bed) close() error {
	var err error
	for _, f := range append(b.servers, b.client, b.node) {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// ground makes what pods are attached to.
func (b *bed) ground(h *netlink.Handle) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "ground"
	var link netlink.Link
	switch b.attach {
	case "veth":
		attrs.Name = "uplink" // holds the node's address: pods' gateway is nobody's
		link = &netlink.Veth{LinkAttrs: attrs, PeerName: "far"}
	case "bridge":
		link = &netlink.Bridge{LinkAttrs: attrs}
	case "macvlan":
		parent := netlink.NewLinkAttrs()
		parent.Name = "uplink"
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: parent, PeerName: "far"}); err != nil {
			return fmt.Errorf("make the uplink: %w", err)
		}
		if err := errors.Join(up(h, "uplink"), up(h, "far")); err != nil {
			return err
		}
		l, err := h.LinkByName("uplink")
		if err != nil {
			return err
		}
		attrs.ParentIndex = l.Attrs().Index
		link = &netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE}
	default:
		return fmt.Errorf("%q is neither veth, bridge nor macvlan", b.attach)
	}
	if err := h.LinkAdd(link); err != nil {
		return fmt.Errorf("make %s: %w", attrs.Name, err)
	}
	bits := podPrefix.Bits()
	if b.attach == "veth" {
		bits = 32
		if err := up(h, "far"); err != nil {
			return err
		}
	}
	return errors.Join(up(h, attrs.Name), address(h, attrs.Name, netip.PrefixFrom(nodeAddr, bits)))
}

// pod makes a namespace and attaches it.
func (b *bed) pod(h *netlink.Handle, addr netip.Addr) (*os.File, error) {
	f, err := netns.New(func() error {
		// The time stamps have no random offset, so that no connection looks older than the one before from that port.
		return write(map[string]string{
			"net/ipv4/tcp_timestamps":      "2",
			"net/ipv4/ip_local_port_range": "1024 65000",
		})
	})
	if err != nil {
		return nil, err
	}
	inside, err := handle(f)
	if err != nil {
		return f, err
	}
	defer inside.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = fmt.Sprintf("pod%d", addr.As4()[3])
	switch b.attach {
	case "macvlan":
		parent, err := h.LinkByName("uplink")
		if err != nil {
			return f, err
		}
		attrs.Name, attrs.ParentIndex, attrs.Namespace = "eth0", parent.Attrs().Index, netlink.NsFd(int(f.Fd()))
		err = h.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_BRIDGE})
		if err != nil {
			return f, err
		}
	default:
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(f.Fd()))}); err != nil {
			return f, err
		}
		if err := up(h, attrs.Name); err != nil {
			return f, err
		}
	}
	if err := errors.Join(up(inside, "lo"), up(inside, "eth0")); err != nil {
		return f, err
	}
	if b.attach == "veth" {
		return f, b.routed(h, inside, attrs.Name, addr)
	}
	if b.attach == "bridge" {
		port, err := h.LinkByName(attrs.Name)
		if err != nil {
			return f, err
		}
		bridge, err := h.LinkByName("ground")
		if err != nil {
			return f, err
		}
		if err := h.LinkSetMaster(port, bridge); err != nil {
			return f, err
		}
	}
	if err := address(inside, "eth0", netip.PrefixFrom(addr, podPrefix.Bits())); err != nil {
		return f, err
	}
	return f, route(inside, "eth0", "0.0.0.0/0", nodeAddr)
}

// routed connects a pod as plumb does: host routes, permanent neighbour entries, a gateway that no device has.
func (b *bed) routed(h, inside *netlink.Handle, name string, addr netip.Addr) error {
	out, err := h.LinkByName(name)
	if err != nil {
		return err
	}
	in, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	gateway := netip.MustParseAddr("169.254.10.24")
	neigh := func(h *netlink.Handle, at, of netlink.Link, ip netip.Addr) error {
		return h.NeighSet(&netlink.Neigh{LinkIndex: at.Attrs().Index, State: netlink.NUD_PERMANENT, IP: ip.AsSlice(),
			HardwareAddr: of.Attrs().HardwareAddr})
	}
	return errors.Join(
		address(inside, "eth0", netip.PrefixFrom(addr, 32)),
		route(inside, "eth0", gateway.String()+"/32", netip.Addr{}),
		route(inside, "eth0", "0.0.0.0/0", gateway),
		neigh(inside, in, out, gateway),
		route(h, name, addr.String()+"/32", netip.Addr{}),
		neigh(h, out, in, addr),
	)
}

func handle(f *os.File) (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(vnetns.NsHandle(f.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	return h, nil
}

func up(h *netlink.Handle, name string) error {
	l, err := h.LinkByName(name)
	if err == nil {
		err = h.LinkSetUp(l)
	}
	if err != nil {
		return fmt.Errorf("set %s up: %w", name, err)
	}
	return nil
}

func address(h *netlink.Handle, name string, p netip.Prefix) error {
	l, err := h.LinkByName(name)
	if err == nil {
		err = h.AddrAdd(l, &netlink.Addr{IPNet: ipNet(p)})
	}
	if err != nil {
		return fmt.Errorf("add %s to %s: %w", p, name, err)
	}
	return nil
}

// route adds a route over a gateway, or with a zero one to the link itself.
func route(h *netlink.Handle, name, dst string, gateway netip.Addr) error {
	l, err := h.LinkByName(name)
	if err == nil {
		r := &netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(netip.MustParsePrefix(dst))}
		if gateway.IsValid() {
			r.Gw = gateway.AsSlice()
		} else {
			r.Scope = unix.RT_SCOPE_LINK
		}
		err = h.RouteAdd(r)
	}
	if err != nil {
		return fmt.Errorf("add route %s dev %s: %w", dst, name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// write sets sysctls in the calling thread's namespace. What this kernel hasn't got is left out.
func write(sysctls map[string]string) error {
	for name, value := range sysctls {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}
