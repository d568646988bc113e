package lab

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"plumb.internal/plumb/schema"
)

// NodesOf turns nodes of a configuration into nodes of a lab; no names means all. A node without addresses gets some
// that are outside every podCIDR.
func NodesOf(cfg *schema.Config, names ...string) ([]Node, error) {
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(cfg.Nodes))
	}
	var cidrs []netip.Prefix
	for _, n := range cfg.Nodes {
		for _, text := range n.PodCIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				cidrs = append(cidrs, p)
			}
		}
	}
	var nodes []Node
	for i, name := range names {
		c, ok := cfg.Nodes[name]
		if !ok {
			return nil, fmt.Errorf("the configuration has no node %s", name)
		}
		n := Node{Name: name, PodCIDRs: c.PodCIDRs, UplinkMTU: max(1500, cfg.Tuning.MTU, c.Tuning.MTU)}
		for _, p := range cfg.Pods {
			n.UplinkMTU = max(n.UplinkMTU, p.MTU)
		}
		devices := c.Uplinks
		if len(devices) == 0 {
			devices = []string{"eth0"}
		}
		for k, dev := range devices {
			up := Uplink{Name: dev}
			have := map[bool]bool{}
			if k == 0 {
				for _, text := range c.Addresses {
					if a, err := netip.ParseAddr(text); err == nil {
						up.Addresses = append(up.Addresses, netip.PrefixFrom(a, networkBits(a)).String())
						have[a.Is4()] = true
					}
				}
			}
			for _, is4 := range []bool{true, false} {
				if a := spare(cidrs, is4, k, i); !have[is4] && a.IsValid() {
					up.Addresses = append(up.Addresses, a.String())
				}
			}
			n.Uplinks = append(n.Uplinks, up)
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// networkBits is the prefix length that a lab gives to the network of a node's address.
func networkBits(a netip.Addr) int {
	if a.Is4() {
		return 24
	}
	return 64
}

// spare is an address for the k-th uplink of the i-th node, in a network that meets no podCIDR.
func spare(cidrs []netip.Prefix, is4 bool, k, i int) netip.Prefix {
	for try := range 64 {
		text := fmt.Sprintf("192.168.%d.%d/24", 31+k+8*try%200, 100+i)
		if !is4 {
			text = fmt.Sprintf("fd00:%d::%x/64", 31+k+8*try, 0x100+i)
		}
		p, err := netip.ParsePrefix(text)
		if err == nil && !slices.ContainsFunc(cidrs, p.Masked().Overlaps) {
			return p
		}
	}
	return netip.Prefix{}
}

// routers are the addresses of the underlay on network k: the first of each network, or the last where a node has that.
func (l *Lab) routers(k int) []netip.Prefix {
	taken := map[netip.Addr]bool{}
	var networks []netip.Prefix
	for _, n := range l.Nodes {
		if k >= len(n.Uplinks) {
			continue
		}
		for _, text := range n.Uplinks[k].Addresses {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				continue
			}
			taken[p.Addr()] = true
			if !slices.Contains(networks, p.Masked()) {
				networks = append(networks, p.Masked())
			}
		}
	}
	var out []netip.Prefix
	for _, network := range networks {
		a := network.Addr().Next()
		if taken[a] {
			last := network.Addr().AsSlice()
			last[len(last)-1] = 254
			a, _ = netip.AddrFromSlice(last)
		}
		out = append(out, netip.PrefixFrom(a, network.Bits()))
	}
	return out
}
