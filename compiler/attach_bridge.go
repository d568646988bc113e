package compiler

import "plumb.internal/plumb/reconciler/resource/link"

// wireBridge makes the node's bridge, which holds the gateways, and gives every pod a port of it.
func (b *builder) wireBridge(s *segment) {
	s.dev, s.link = bridgeName, link.For("", bridgeName)
	b.put(link.Link{Name: s.dev, Type: link.Bridge, MTU: s.mtu(), MAC: b.names.mac("", s.dev), From: s.pods[0].path})
	b.hold(s)
	for _, p := range s.pods {
		l := b.pair(p, p.device(), b.names.dev(pairHost, p.name), "")
		l.Peer.Master = s.dev
		// Where br_netfilter is loaded, nftables translates at the bridge's port, and a pod that reaches itself through
		// a service would be sent back where it came from: ports don't do that by themselves.
		l.Peer.Hairpin = b.datapath.way == wayNftables
		d := b.open(p, l, l.Peer.Name)
		for _, a := range p.addrs {
			b.address(d, a, a.cidr.Bits())
			b.lead(s, p, a, s.dev, s.link)
		}
		b.ranges(s, d, direct)
		b.gateways(d, cidrGateway)
	}
}
