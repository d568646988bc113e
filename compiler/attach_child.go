package compiler

import (
	"slices"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/link"
)

// wireChildren makes pods children of an uplink. The kernel keeps an uplink and its children apart, so the root namespace
// gets a child too, of the same kind and mode, which holds the gateways and leads to the pods.
func (b *builder) wireChildren(s *segment) {
	l := link.Link{Type: link.IPvlan, Parent: s.uplink, MTU: s.mtu(), From: s.pods[0].path}
	prefix := ipvlanHost
	switch s.attach {
	case "macvlan":
		l.Type, l.Mode, prefix = link.Macvlan, "bridge", macvlanHost
	case "ipvlan-l2":
		l.Mode = "l2"
	default:
		l.Mode = "l3"
	}
	l.Name = b.names.dev(prefix, s.uplink)
	l.MAC = b.childMAC(l, "", l.Name)
	s.dev, s.link = l.Name, l.ID()
	b.put(l)
	b.hold(s)
	if slices.ContainsFunc(s.pods, func(p *pod) bool { return p.has(false) }) {
		b.loose("", s.dev, s.link, l.From)
		if s.attach == "ipvlan-l2" {
			// Frames for the MAC that all share, but for no child's address, come in on the uplink.
			b.loose("", s.uplink, resource.ID{}, l.From)
		}
	}
	for _, p := range s.pods {
		l.NetNS, l.Name, l.MTU, l.From = p.name, p.device(), p.MTU, p.path
		l.MAC = b.childMAC(l, p.name, "pod")
		d := b.open(p, l, s.dev)
		gateway, bits := cidrGateway, func(a address) int { return a.cidr.Bits() }
		if s.attach == "ipvlan-l3" {
			// There are no neighbours in this mode: everything goes to the device.
			gateway, bits = direct, func(a address) int { return a.BitLen() }
		}
		for _, a := range p.addrs {
			b.address(d, a, bits(a))
			b.lead(s, p, a, s.dev, s.link)
		}
		if s.attach != "ipvlan-l3" || len(d.tables) > 1 || s.reaches(p, false)+s.reaches(p, true) > 0 {
			b.ranges(s, d, direct)
		}
		b.gateways(d, gateway)
	}
}

// childMAC is ours for macvlan; ipvlan children have their parent's.
func (b *builder) childMAC(l link.Link, pod, end string) string {
	if l.Type == link.IPvlan {
		return ""
	}
	return b.names.mac(pod, end)
}
