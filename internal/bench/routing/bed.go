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
	"plumb.internal/plumb/schema"
)

const node = "node"

// The addresses. Far is another node of the files; it has the address outside too, which no file knows.
var (
	podPrefix = netip.MustParsePrefix("10.0.0.0/24")
	podAddr   = netip.MustParseAddr("10.0.0.2")
	near      = netip.MustParseAddr("192.168.31.1")
	far       = netip.MustParseAddr("192.168.31.2")
	outside   = netip.MustParseAddr("198.51.100.1")
)

// bed has one pod.
type bed struct {
	*lanes.Bed
	pod *os.File
}

// newBed makes the node as way w says, with so many rules in its firewall, and what it needs on the other side.
func newBed(ctx context.Context, g *lanes.Ground, attach string, w way, rules int) (b *bed, err error) {
	b = &bed{}
	if b.Bed, err = g.NewBed(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
			b = nil
		}
	}()
	if err := b.network(w); err != nil {
		return b, fmt.Errorf("make the network: %w", err)
	}
	if err := firewall(ctx, b.Root, rules); err != nil {
		return b, err
	}
	if err := b.Converge(ctx, config(attach, w), node, g.Features); err != nil {
		return b, err
	}
	if b.pod, err = b.Pod("client"); err != nil {
		return b, err
	}
	return b, b.Ends(b.Far)
}

// config is the node as a user would write it.
func config(attach string, w way) *schema.Config {
	return &schema.Config{
		Nodes: map[string]schema.Node{
			node:  {Uplinks: []string{lanes.Uplink}, Addresses: []string{near.String()}, PodCIDRs: []string{podPrefix.String()}},
			"far": {Addresses: []string{far.String()}},
		},
		Pods:    map[string]schema.Pod{"client": {Node: node, Attach: attach, Addresses: []string{podAddr.String()}}},
		Routing: w.routing,
		Tuning:  schema.Tuning{ConntrackBypass: w.bypass},
	}
}

// network gives both hosts their addresses, and routes to each other. Who sees pods as the node needs none to them, and gets
// none, so that nothing else can work.
func (b *bed) network(w way) error {
	err := netns.Do(int(b.Root.Fd()), func() error {
		return addresses(map[netip.Addr]int{near: 24}, far, netip.PrefixFrom(outside, 32))
	})
	if err != nil {
		return err
	}
	return netns.Do(int(b.Far.Fd()), func() error {
		mine := map[netip.Addr]int{far: 24, outside: 32}
		if w.translated {
			return addresses(mine, near)
		}
		return addresses(mine, near, podPrefix)
	})
}

// addresses gives the device eth0 of the calling thread's namespace addresses, and sets routes via a neighbour.
func addresses(addrs map[netip.Addr]int, via netip.Addr, to ...netip.Prefix) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.LinkByName(lanes.Uplink)
	if err != nil {
		return err
	}
	for a, bits := range addrs {
		if err := h.AddrAdd(l, &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, bits))}); err != nil {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	for _, p := range to {
		if err := h.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: ipNet(p), Gw: via.AsSlice()}); err != nil {
			return fmt.Errorf("add route %s: %w", p, err)
		}
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
