package compiler

import (
	"net/netip"
	"slices"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/addr"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/reconciler/resource/neigh"
	"plumb.internal/plumb/reconciler/resource/route"
	"plumb.internal/plumb/reconciler/resource/sysctl"
)

var (
	gateway4 = netip.MustParseAddr(resource.Gateway4)
	gateway6 = netip.MustParseAddr(resource.Gateway6)
)

// wireRouted gives every pod a pair of its own. Inside, all goes to a gateway that no device holds: permanent entries
// say that it, and the pod, are at the other end, so nobody ever asks.
func (b *builder) wireRouted(s *segment) {
	for _, p := range s.pods {
		l := b.pair(p, p.device(), b.names.dev(pairHost, p.name), "")
		if p.Attach == link.Netkit {
			l.Type, l.Mode = link.Netkit, "l2"
		}
		d := b.open(p, l, l.Peer.Name)
		for _, a := range p.addrs {
			b.address(d, a, a.BitLen())
			b.lead(s, p, a, l.Peer.Name, d.link)
			b.put(neigh.Neigh{Dev: l.Peer.Name, IP: a.Addr, MAC: l.MAC, Link: d.link, From: a.from})
		}
		b.neighbours(p, l)
		b.gateways(d, pairGateway)
		if len(d.tables) > 1 {
			b.ranges(s, d, pairGateway)
		}
	}
}

// pair is a veth pair from a pod to the root namespace; end tells a pod's pairs apart.
func (b *builder) pair(p *pod, dev, hostDev, end string) link.Link {
	return link.Link{
		NetNS: p.name, Name: dev, Type: link.Veth, MTU: p.MTU, MAC: b.names.mac(p.name, end+"pod"),
		Peer: &link.Peer{Name: hostDev, MAC: b.names.mac(p.name, end+"host"), MTU: p.MTU},
		From: p.path,
	}
}

// neighbours tells a pod that the gateways are at the other end of a pair.
func (b *builder) neighbours(p *pod, l link.Link) {
	for _, gw := range []netip.Addr{gateway4, gateway6} {
		if p.has(gw.Is6()) {
			b.put(neigh.Neigh{NetNS: p.name, Dev: l.Name, IP: gw, MAC: l.Peer.MAC, Link: l.ID(), From: p.path})
		}
	}
}

// detour gives an ipvlan-l3 pod a second way, a pair, to pods of other attachments: the kernel routes what leaves its own
// device in the root namespace too, but bound to the uplink, so it never gets to them. Their answers come over the uplink's
// children, which is why nobody on the way may insist that they come back as they went.
func (b *builder) detour(p *pod, others []*pod) {
	l := b.pair(p, detourName, b.names.dev(detourHost, p.name), "detour-")
	l.Adopted = p.NetNS != ""
	d := port{pod: p, dev: l.Name, link: l.ID(), tables: p.tables()}
	b.put(l)
	b.detours[p.name] = l
	b.neighbours(p, l)
	if p.has(false) {
		b.loose(p.name, p.device(), link.For(p.name, p.device()), p.path)
		b.loose("", l.Peer.Name, d.link, p.path)
		// On a device without any address the kernel is strict however loose it should be.
		i := slices.IndexFunc(p.addrs, func(a address) bool { return a.Is4() })
		b.put(addr.Addr{Dev: l.Peer.Name, Prefix: host(p.addrs[i].cidr.gateway), Link: d.link, From: p.path})
	}
	b.forwardsOwn(p)
	for _, o := range others {
		for _, a := range o.addrs {
			if !p.has(a.Is6()) {
				continue
			}
			for _, table := range d.tables {
				b.put(route.Route{
					NetNS: p.name, Dst: host(a.Addr), Table: table, Metric: metric(a.Is6()),
					Dev: l.Name, Gateway: pairGateway(a), OnLink: true, Link: d.link, From: p.path,
				})
			}
		}
	}
}

// forwardsOwn lets the program that translates the pod's packets ask the pod's routes anew: the kernel answers only for a
// device that may forward, and for that the program names lo, which nothing comes in by.
func (b *builder) forwardsOwn(p *pod) {
	if b.datapath.packet != objectPacket {
		return
	}
	for _, v6 := range []bool{false, true} {
		if p.has(v6) {
			key := map[bool]string{false: "net.ipv4.conf.lo.forwarding", true: "net.ipv6.conf.lo.forwarding"}[v6]
			b.put(sysctl.Sysctl{NetNS: p.name, Key: key, Value: "1", From: p.path})
		}
	}
}

// pairGateway is the gateway of pods that have no neighbourhood.
func pairGateway(a address) netip.Addr {
	if a.Is6() {
		return gateway6
	}
	return gateway4
}
