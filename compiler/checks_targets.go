package compiler

import (
	"net/netip"
	"slices"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/netns"
	"plumb.internal/plumb/reconciler/resource/nft"
	svc "plumb.internal/plumb/reconciler/resource/service"
)

// settleChecks finds the addresses of this node's checks.
func (b *builder) settleChecks() {
	for _, c := range b.checks {
		if c.node == b.node {
			c.Targets = b.targets(c)
		}
	}
}

// targets are the addresses that a check is about, of those families that its source speaks.
func (b *builder) targets(c *check) []netip.AddrPort {
	var all []netip.AddrPort
	port := c.Port
	switch {
	case c.pod != nil:
		for _, a := range c.pod.addrs {
			all = append(all, netip.AddrPortFrom(a.Addr, port))
		}
		if c.pod.bad || len(all) == 0 {
			return nil // said
		}
	case c.service != nil:
		for _, a := range c.service.addrs {
			all = append(all, netip.AddrPortFrom(a.Addr, uint16(c.port.Port.Port)))
		}
		if c.service.bad {
			return nil
		}
		if len(all) == 0 {
			b.add(c.path+".to.service", c.service.path, "service %s has no addresses for pods and nodes", c.service.name)
			return nil
		}
		if !b.set.Supports(features.IPv6) && slices.ContainsFunc(all, func(a netip.AddrPort) bool { return a.Addr().Is4() }) {
			all = slices.DeleteFunc(all, func(a netip.AddrPort) bool { return a.Addr().Is6() }) // warned of: nobody here reaches them
		}
	case c.to != nil:
		for _, text := range c.to.Addresses {
			if a, err := netip.ParseAddr(text); err == nil {
				all = append(all, netip.AddrPortFrom(a, port))
			}
		}
	case c.Host == "":
		all = []netip.AddrPort{netip.AddrPortFrom(c.Targets[0].Addr(), port)}
	}
	if c.from == nil || len(all) == 0 {
		return all
	}
	spoken := slices.DeleteFunc(slices.Clone(all), func(a netip.AddrPort) bool { return !c.from.has(a.Addr().Is6()) })
	if len(spoken) == 0 && !c.from.bad {
		family := map[bool]string{false: "IPv4", true: "IPv6"}[all[0].Addr().Is6()]
		b.add(c.path+".to", c.from.path, "pod %s has no %s address, and %s has no others", c.from.name, family, c.To)
	}
	return spoken
}

// buildChecks lists this node's checks, with the objects that they are about.
func (b *builder) buildChecks() {
	for _, c := range b.checks {
		if c.node != b.node {
			continue
		}
		need := func(id resource.ID) {
			if _, ok := b.out.State[id]; ok && !slices.Contains(c.Needs, id) {
				c.Needs = append(c.Needs, id)
			}
		}
		for _, p := range []*pod{c.from, c.pod} {
			if p != nil {
				need(resource.ID{Kind: netns.Kind, Name: p.name})
			}
		}
		if c.service != nil {
			for _, a := range c.service.addrs {
				need(svc.For(resource.Frontend{Address: a.Addr, Port: uint16(c.port.Port.Port), Protocol: c.port.Protocol}))
			}
			need(nft.Table{}.ID())
		}
		b.out.Checks = append(b.out.Checks, c.Check)
	}
}
