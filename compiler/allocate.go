package compiler

import (
	"math"
	"net/netip"
	"strconv"

	"plumb.internal/plumb/schema"
)

// give gives pods that name no addresses one of each family that the podCIDRs of their node have. A pod's address comes
// from the hash of its name; only where two pods meet does the order of names decide, so a pod keeps its address unless
// one that it meets comes or goes.
func (f *fleet) give(n *node, open []*pod) {
	if len(open) == 0 {
		return
	}
	taken := make(map[netip.Addr]bool, 2*len(n.pods))
	used := make(map[*cidr]float64, len(n.cidrs))
	for _, p := range n.pods {
		for _, a := range p.addrs {
			taken[a.Addr] = true
			used[a.cidr]++
		}
	}
	for _, v6 := range []bool{false, true} {
		var ranges []*cidr
		for _, c := range n.cidrs {
			if c.Addr().Is6() == v6 {
				ranges = append(ranges, c)
			}
		}
		var waiting []*pod
		for _, p := range open {
			if len(ranges) > 0 && !p.has(v6) {
				waiting = append(waiting, p)
			}
		}
		for _, c := range ranges {
			// The later names go to the next range, or without.
			room := int(max(0, min(c.room()-used[c], float64(len(waiting)))))
			c.give(n, waiting[:room], taken)
			waiting = waiting[room:]
		}
		if len(waiting) > 0 {
			f.add(n.path+".podCIDRs", waiting[0].path, "the %s podCIDRs of node %s are full: of its %d pods, %d find no free address, the first is %s",
				map[bool]string{false: "IPv4", true: "IPv6"}[v6], n.name, len(n.pods), len(waiting), waiting[0].name)
		}
	}
}

// unaddressed lists the pods of a node that name no addresses.
func (n *node) unaddressed() []*pod {
	var open []*pod
	for _, p := range n.pods {
		if len(p.Addresses) == 0 && !p.bad {
			open = append(open, p)
		}
	}
	return open
}

// room is how many pods a range can hold.
func (c *cidr) room() float64 {
	size := math.Ldexp(1, c.Addr().BitLen()-c.Bits())
	if c.Addr().Is4() {
		return size - 3
	}
	return size - 2
}

// seeker is a pod on its way to an address; at is the last one that it asked for.
type seeker struct {
	pod *pod
	at  netip.Addr
}

// give gives each pod one address of the range, which has room for them all. Everybody's first wish comes before
// anybody's second one: then who lost a wish never moves a pod that it hasn't met.
func (c *cidr) give(n *node, pods []*pod, taken map[netip.Addr]bool) {
	const hashed = 16 // wishes by hash; then a walk through the range, which ends also where it is nearly full
	seekers := make([]seeker, len(pods))
	for i, p := range pods {
		seekers[i].pod = p
	}
	for wish := 0; len(seekers) > 0; wish++ {
		lost := seekers[:0]
		for _, s := range seekers {
			if wish < hashed {
				s.at = c.wish(n.name, s.pod.name, wish)
			} else if s.at = s.at.Next(); !c.Contains(s.at) {
				s.at = c.gateway.Next()
			}
			if taken[s.at] || c.reserved(s.at) != "" {
				lost = append(lost, s)
				continue
			}
			taken[s.at] = true
			s.pod.addrs = append(s.pod.addrs, address{Addr: s.at, cidr: c, from: s.pod.path})
		}
		seekers = lost
	}
}

// wish is an address of the range by hash.
func (c *cidr) wish(node, pod string, wish int) netip.Addr {
	hash := digest("address", node, pod, strconv.Itoa(wish))
	b := c.Addr().As16()
	bits := c.Bits()
	if c.Addr().Is4() {
		bits += 96
	}
	for i := bits / 8; i < len(b); i++ {
		mask := byte(0xff)
		if i == bits/8 {
			mask >>= bits % 8
		}
		b[i] |= hash[i] & mask
	}
	a := netip.AddrFrom16(b)
	if c.Addr().Is4() {
		return a.Unmap()
	}
	return a
}

// keepPrevious gives pods that name no addresses those that addresses.cue has for them, where that is still right.
func (f *fleet) keepPrevious(previous map[string][]string) {
	taken := map[netip.Addr]bool{}
	for _, p := range f.pods {
		for _, a := range p.addrs {
			taken[a.Addr] = true
		}
	}
	for _, p := range f.pods {
		if len(p.Addresses) > 0 {
			continue
		}
		for _, text := range previous[p.name] {
			a, err := netip.ParseAddr(text)
			if err != nil || taken[a] || p.has(a.Is6()) {
				continue
			}
			if c := p.node.cidrOf(a); c != nil && c.reserved(a) == "" {
				taken[a] = true
				p.addrs = append(p.addrs, address{Addr: a, cidr: c, from: p.path})
			}
		}
	}
}

// forget leaves out the addresses that stand in addresses.cue.
func forget(cfg *schema.Config, previous map[string][]string) *schema.Config {
	bare := *cfg
	bare.Pods = make(map[string]schema.Pod, len(cfg.Pods))
	for name, p := range cfg.Pods {
		if equal(p.Addresses, previous[name]) {
			p.Addresses = nil
		}
		bare.Pods[name] = p
	}
	return &bare
}
