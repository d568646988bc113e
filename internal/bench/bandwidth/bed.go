package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/bench/lanes"
	"plumb.internal/plumb/internal/netns"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/schema"
)

const node = "node"

// The addresses: the pod, the node, the router behind its uplink by both sides, and the host behind that.
var (
	podPrefix = netip.MustParsePrefix("10.0.0.0/24")
	podAddr   = netip.MustParseAddr("10.0.0.2")
	near      = netip.MustParseAddr("192.168.31.1")
	router    = netip.MustParseAddr("192.168.31.2")
	behind    = netip.MustParseAddr("198.51.100.1")
	host      = netip.MustParseAddr("198.51.100.2")
)

// beyond is the router's device to the host.
const beyond = "beyond"

// bed has one pod.
type bed struct {
	*lanes.Bed
	features *features.Set
	pod      *os.File // once there is a configuration
	host     *os.File
}

func newBed(g *lanes.Ground) (b *bed, err error) {
	b = &bed{features: g.Features}
	if b.Bed, err = g.NewBed(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
		}
	}()
	if b.host, err = netns.New(nil); err != nil {
		return b, err
	}
	b.Own(b.host)
	if err := b.network(); err != nil {
		return b, fmt.Errorf("make the network: %w", err)
	}
	return b, b.Ends(b.host)
}

// converge makes the node what a configuration says.
func (b *bed) converge(ctx context.Context, cfg *schema.Config) (err error) {
	if err := b.Converge(ctx, cfg, node, b.features); err != nil {
		return err
	}
	if b.pod == nil {
		b.pod, err = b.Pod("client")
	}
	return err
}

// network links and routes node, router and host.
func (b *bed) network() error {
	err := inside(b.Far, func(h *netlink.Handle) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = beyond
		return h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: lanes.Uplink, PeerNamespace: netlink.NsFd(int(b.host.Fd()))})
	})
	all := netip.MustParsePrefix("0.0.0.0/0")
	return errors.Join(err,
		wire(b.Root, lanes.Uplink, near, all, router),
		wire(b.Far, lanes.Uplink, router, podPrefix, near),
		wire(b.Far, beyond, behind, netip.Prefix{}, behind),
		wire(b.host, lanes.Uplink, host, all, behind),
		netns.Do(int(b.Far.Fd()), func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) }))
}

// wire sets a device of a namespace up, with an address and a route by a neighbour.
func wire(ns *os.File, dev string, addr netip.Addr, to netip.Prefix, via netip.Addr) error {
	return inside(ns, func(h *netlink.Handle) error {
		l, err := h.LinkByName(dev)
		if err != nil {
			return err
		}
		if err := h.LinkSetUp(l); err != nil {
			return fmt.Errorf("set %s up: %w", dev, err)
		}
		if err := h.AddrAdd(l, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(addr, 24))}); err != nil {
			return fmt.Errorf("add address %s: %w", addr, err)
		}
		if !to.IsValid() {
			return nil
		}
		if err := h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(to), Gw: via.AsSlice()}); err != nil {
			return fmt.Errorf("add route %s: %w", to, err)
		}
		return nil
	})
}

// narrow has the router send to the host at a rate only, and hold a second of it; and the host answer 20 ms later.
func (b *bed) narrow(rate string) error {
	qdisc := func(ns *os.File, dev string, q func(netlink.QdiscAttrs) netlink.Qdisc) error {
		return inside(ns, func(h *netlink.Handle) error {
			l, err := h.LinkByName(dev)
			if err != nil {
				return err
			}
			return h.QdiscAdd(q(netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}))
		})
	}
	bytes := uint64(bits(rate) / 8)
	burst := 64 << 10 // one packet as large as the stack makes them
	return errors.Join(
		qdisc(b.Far, beyond, func(a netlink.QdiscAttrs) netlink.Qdisc {
			return &netlink.Tbf{QdiscAttrs: a, Rate: bytes, Buffer: uint32(uint64(burst) * 1e9 / bytes >> 6), Limit: uint32(bytes)}
		}),
		qdisc(b.host, lanes.Uplink, func(a netlink.QdiscAttrs) netlink.Qdisc {
			return netlink.NewNetem(a, netlink.NetemQdiscAttrs{Latency: 20000, Limit: 100000})
		}))
}

// dropped is how many packets the queues of the node and of its pod dropped so far.
func (b *bed) dropped() (n uint64, err error) {
	for _, ns := range []*os.File{b.Root, b.pod} {
		err = errors.Join(err, inside(ns, func(h *netlink.Handle) error {
			links, err := h.LinkList()
			if err != nil {
				return err
			}
			for _, l := range links {
				qdiscs, err := h.QdiscList(l)
				if err != nil {
					return err
				}
				for _, q := range qdiscs {
					if s := q.Attrs().Statistics; s != nil && s.Queue != nil && q.Attrs().Parent == netlink.HANDLE_ROOT {
						n += uint64(s.Queue.Drops)
					}
				}
			}
			return nil
		}))
	}
	return n, err
}

// inside runs f with a handle of a namespace.
func inside(ns *os.File, f func(*netlink.Handle) error) error {
	return netns.Do(int(ns.Fd()), func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		return f(h)
	})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
