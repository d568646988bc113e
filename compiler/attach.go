package compiler

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/addr"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/reconciler/resource/neigh"
	"plumb.internal/plumb/reconciler/resource/netns"
	"plumb.internal/plumb/reconciler/resource/route"
	iprule "plumb.internal/plumb/reconciler/resource/rule"
	"plumb.internal/plumb/reconciler/resource/sysctl"
)

// rulePriority stands before the kernel's rule for the main table (32766), and leaves room for others before it.
const rulePriority = 1000

// routed is the segment of pods that have a pair of their own and no neighbours: veth and netkit.
const routed = "routed"

// segment is the pods of a node that reach each other without its root namespace, or all routed pods.
type segment struct {
	attach string // routed, or the attachment that its pods have
	uplink string // of macvlan and ipvlan
	pods   []*pod
	// dev is the root namespace's device that leads to the pods; none for routed.
	dev  string
	link resource.ID
}

// segmentsOf sorts the pods of a node into segments, in the order of their first pods.
func segmentsOf(n *node) []*segment {
	type key struct{ attach, uplink string }
	byKey := map[key]*segment{}
	var all []*segment
	for _, p := range n.pods {
		k := key{attach: p.Attach}
		switch {
		case p.child():
			k.uplink = p.Uplink
		case p.Attach == link.Veth || p.Attach == link.Netkit:
			k.attach = routed
		}
		s := byKey[k]
		if s == nil {
			s = &segment{attach: k.attach, uplink: k.uplink}
			byKey[k] = s
			all = append(all, s)
		}
		s.pods = append(s.pods, p)
	}
	return all
}

// wire makes the devices of a segment and leads the node to its pods.
func (b *builder) wire(s *segment) {
	switch s.attach {
	case routed:
		b.wireRouted(s)
	case "bridge":
		b.wireBridge(s)
	default:
		b.wireChildren(s)
	}
}

// join leads the pods of a segment to those of the others.
func (b *builder) join(s *segment, all []*segment) {
	if s.attach == routed {
		return // their one neighbour is the root namespace, which knows the way
	}
	var others []*pod
	for _, o := range all {
		if o != s {
			others = append(others, o.pods...)
		}
	}
	if len(others) == 0 {
		return
	}
	if s.attach == "ipvlan-l3" {
		for _, p := range s.pods {
			b.detour(p, others)
		}
		return
	}
	b.proxy(s, others)
}

// port is the device inside a pod that carries its addresses.
type port struct {
	*pod
	dev  string
	link resource.ID
	// tables get the routes to pods. The default routes go into the last one, beside those of the container that owns an
	// adopted namespace; rules send there what has a pod's address.
	tables []int
}

// tables are those of the ports of a pod.
func (p *pod) tables() []int {
	if p.NetNS != "" && p.device() != "eth0" {
		return []int{route.MainTable, resource.Table}
	}
	return []int{route.MainTable}
}

// open makes the namespace of a pod and what is the same for all attachments, around the device that l makes.
func (b *builder) open(p *pod, l link.Link, hostDev string) port {
	d := port{pod: p, dev: l.Name, link: l.ID(), tables: p.tables()}
	l.Adopted = p.NetNS != ""
	b.put(netns.NetNS{Name: p.name, Path: p.NetNS, From: p.path})
	b.put(l)
	b.wirings = append(b.wirings, wiring{p, l})
	for _, key := range slices.Sorted(maps.Keys(p.Sysctls)) {
		b.sysctl(p, d, key)
	}
	if p.has(true) {
		b.put(addr.Addr{
			NetNS: p.name, Dev: d.dev, Prefix: netip.PrefixFrom(b.names.linkLocal(p.name, d.dev), 64), Link: d.link, From: p.path,
		})
	}
	view := PodView{Name: p.name, Attach: p.Attach, Interface: d.dev, HostDev: hostDev, NetNSPath: p.NetNS}
	if view.NetNSPath == "" {
		view.NetNSPath = resource.NetNSDir + "/" + p.name
	}
	for _, a := range p.addrs {
		view.Addresses = append(view.Addresses, a.Addr)
		if len(d.tables) > 1 {
			b.put(iprule.Rule{NetNS: p.name, Priority: rulePriority, Src: host(a.Addr), Table: resource.Table, From: a.from})
		}
	}
	b.out.Pods = append(b.out.Pods, view)
	return d
}

// sysctl sets what the user asks for; settings of the pod's device wait for the device.
func (b *builder) sysctl(p *pod, d port, key string) {
	s := sysctl.Sysctl{NetNS: p.name, Key: sysctlKey(key), Value: p.Sysctls[key], From: p.sysctlFrom(key, b.cfg)}
	if parts := strings.Split(s.Key, "."); len(parts) > 4 && parts[3] == sysctlPart(d.dev) {
		s.Link = d.link
	}
	b.put(s)
}

// address puts an address on the pod's device.
func (b *builder) address(d port, a address, bits int) {
	b.put(addr.Addr{NetNS: d.name, Dev: d.dev, Prefix: netip.PrefixFrom(a.Addr, bits), Link: d.link, From: a.from})
}

// gateways makes the default routes of a pod, one a family, via the gateway that of answers for an address, or straight to
// the device if that is none.
func (b *builder) gateways(d port, of func(address) netip.Addr) {
	for _, v6 := range []bool{false, true} {
		i := slices.IndexFunc(d.addrs, func(a address) bool { return a.Is6() == v6 })
		if i < 0 {
			continue
		}
		all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if v6 {
			all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		gw := of(d.addrs[i])
		b.put(route.Route{
			NetNS: d.name, Dst: all, Table: d.tables[len(d.tables)-1], Metric: metric(v6),
			Dev: d.dev, Gateway: gw, OnLink: gw.IsValid(), Link: d.link, From: d.path,
		})
	}
}

// ranges makes routes to the podCIDRs that the pod has addresses of, on its device or via a gateway.
func (b *builder) ranges(s *segment, d port, of func(address) netip.Addr) {
	for i, a := range d.addrs {
		if slices.ContainsFunc(d.addrs[:i], func(o address) bool { return o.cidr == a.cidr }) {
			continue
		}
		gw := of(a)
		for _, table := range d.tables {
			b.put(route.Route{
				NetNS: d.name, Dst: a.cidr.Prefix, Table: table, Metric: metric(a.Is6()),
				Dev: d.dev, Gateway: gw, OnLink: gw.IsValid(), MTU: s.reaches(d.pod, a.Is6()), Link: d.link, From: d.path,
			})
		}
	}
}

// lead makes the root namespace's route to one address of a pod. A device that leads to several pods carries what the one
// with the largest MTU takes.
func (b *builder) lead(s *segment, p *pod, a address, dev string, by resource.ID) {
	r := route.Route{Dst: host(a.Addr), Table: route.MainTable, Metric: metric(a.Is6()), Dev: dev, Link: by, From: a.from}
	if s.attach != routed && p.MTU < s.mtu() {
		r.MTU = p.MTU
	}
	b.put(r)
}

// proxy makes a segment's device answer for pods of other segments, so that the segment's pods send it what is for them.
func (b *builder) proxy(s *segment, others []*pod) {
	// Of a family that the segment doesn't speak nobody asks, and the device loses its entries with its last address.
	var v4, v6 bool
	for _, p := range s.pods {
		v4 = v4 || p.has(false)
		v6 = v6 || p.has(true)
	}
	var proxied4, proxied6 bool
	for _, p := range others {
		for _, a := range p.addrs {
			if a.Is6() && !v6 || a.Is4() && !v4 {
				continue
			}
			proxied4 = proxied4 || a.Is4()
			proxied6 = proxied6 || a.Is6()
			b.put(neigh.Neigh{Dev: s.dev, IP: a.Addr, Proxy: true, Link: s.link, From: a.from})
		}
	}
	// The kernel lets up to 0.8 s go by before it answers for others, in case they answer themselves. Nobody else does here.
	set := func(key, value string) {
		b.put(sysctl.Sysctl{Key: fmt.Sprintf(key, sysctlPart(s.dev)), Value: value, Link: s.link, From: s.pods[0].path})
	}
	if proxied4 {
		set("net.ipv4.neigh.%s.proxy_delay", "0")
	}
	if proxied6 {
		set("net.ipv6.neigh.%s.proxy_delay", "0")
		set("net.ipv6.conf.%s.proxy_ndp", "1")
	}
}

// hold gives a segment's device in the root namespace the gateways of its pods' ranges. The addresses are single ones:
// the routes to pods are the node's own.
func (b *builder) hold(s *segment) {
	var held []*cidr
	var v6 bool
	for _, p := range s.pods {
		for _, a := range p.addrs {
			if slices.Contains(held, a.cidr) {
				continue
			}
			held = append(held, a.cidr)
			v6 = v6 || a.Is6()
			b.put(addr.Addr{Dev: s.dev, Prefix: host(a.cidr.gateway), Link: s.link, From: a.cidr.path})
		}
	}
	if v6 {
		// Without one the kernel can't ask for pods' neighbours on behalf of others.
		b.put(addr.Addr{Dev: s.dev, Prefix: netip.PrefixFrom(b.names.linkLocal("", s.dev), 64), Link: s.link, From: s.pods[0].path})
	}
}

// loose makes the kernel take packets whose way back leads through another device.
func (b *builder) loose(netns, dev string, by resource.ID, from string) {
	b.put(sysctl.Sysctl{NetNS: netns, Key: "net.ipv4.conf." + sysctlPart(dev) + ".rp_filter", Value: "2", Link: by, From: from})
}

// mtu is the largest MTU of a segment's pods.
func (s *segment) mtu() int {
	most := 0
	for _, p := range s.pods {
		most = max(most, p.MTU)
	}
	return most
}

// reaches is what a pod can send to all neighbours of a family, where that is less than what it can send to others: whoever
// carries frames between neighbours drops those that are too large for one without a word, as bridges do. It is 0 where it isn't less, and
// for routed pods, whose one neighbour takes what they send.
func (s *segment) reaches(p *pod, v6 bool) int {
	if !p.has(v6) {
		return 0
	}
	least := p.MTU
	for _, o := range s.pods {
		if s.attach != routed && o.has(v6) {
			least = min(least, o.MTU)
		}
	}
	if least == p.MTU {
		return 0
	}
	return least
}

// host is the prefix of one address.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// direct is the gateway of routes that need none.
func direct(address) netip.Addr { return netip.Addr{} }

// cidrGateway is the gateway of pods that have a neighbourhood.
func cidrGateway(a address) netip.Addr { return a.cidr.gateway }
