package compiler

import (
	"net/netip"
	"slices"
	"strings"
)

// noNodes is what to do about a configuration without nodes.
const noNodes = `no node is declared; add one: nodes: "NAME": {uplinks: ["eth0"], podCIDRs: ["10.0.0.0/24"]}`

// check finds the mistakes that no kernel is needed for, in the whole fleet.
func (f *fleet) check() {
	if len(f.nodes) == 0 {
		path := ""
		if len(f.pods) > 0 {
			path = f.pods[0].path
		}
		f.add(path, "", "%s", noNodes)
		return
	}
	f.checkCIDRs()
	f.checkNodes()
	f.checkAddresses()
	for _, n := range f.nodes {
		for _, p := range n.pods {
			f.checkPod(p)
		}
		f.checkUplinks(n)
		f.checkAdopted(n)
	}
}

// sortedCIDRs are the ranges of all nodes, such that those that hold one stand before it.
func (f *fleet) sortedCIDRs() []*cidr {
	var all []*cidr
	for _, n := range f.nodes {
		all = append(all, n.cidrs...)
	}
	slices.SortStableFunc(all, func(a, b *cidr) int {
		if c := a.Addr().Compare(b.Addr()); c != 0 {
			return c
		}
		return a.Bits() - b.Bits()
	})
	return all
}

// checkCIDRs finds ranges that overlap, within a node and between nodes.
func (f *fleet) checkCIDRs() {
	all := f.sortedCIDRs() // the last that reaches furthest tells
	var outer *cidr
	for _, c := range all {
		if outer != nil && outer.Overlaps(c.Prefix) {
			f.add(c.path, outer.path, "%s overlaps %s", c.Prefix, outer.Prefix)
			continue
		}
		outer = c
	}
}

// checkNodes finds mistakes in the nodes' own addresses and uplinks.
func (f *fleet) checkNodes() {
	type place struct {
		node *node
		path string
	}
	first := map[netip.Addr]place{}
	for _, n := range f.nodes {
		if len(n.pods) > 0 && len(n.PodCIDRs) == 0 {
			f.add(n.path, n.pods[0].path, `podCIDRs is missing, and the node has pods; add podCIDRs: ["10.0.0.0/24"]`)
		}
		for i, u := range n.Uplinks {
			path := element(n.path+".uplinks", i)
			if why := badDevName(u); why != "" {
				f.add(path, "", "%q can't be a device: %s", u, why)
			}
			if j := slices.Index(n.Uplinks, u); j < i {
				f.add(path, element(n.path+".uplinks", j), "uplink %q is named twice", u)
			}
		}
		for i, text := range n.Addresses {
			path := element(n.path+".addresses", i)
			ip, err := netip.ParseAddr(text)
			if err != nil {
				f.add(path, "", "%q isn't an IP address", text)
				continue
			}
			if other, ok := first[ip]; ok && other.node != n {
				f.add(path, other.path, "address %s is node %s's already", ip, other.node.name)
				continue
			}
			first[ip] = place{n, path}
			for _, m := range f.nodes {
				if c := m.cidrOf(ip); c != nil {
					f.add(path, c.path, "node address %s is inside podCIDR %s", ip, c.Prefix)
				}
			}
		}
	}
}

// checkAddresses finds pod addresses outside their node's ranges, reserved ones, and those of two pods.
func (f *fleet) checkAddresses() {
	type place struct {
		pod  *pod
		from string
	}
	first := make(map[netip.Addr]place, 2*len(f.pods))
	for _, p := range f.pods {
		if p.node == nil {
			continue
		}
		for i := range p.addrs {
			a := &p.addrs[i]
			if other, ok := first[a.Addr]; ok {
				p.bad = true
				switch {
				case other.pod == p:
					f.add(a.from, other.from, "address %s is listed twice", a)
				case other.from == a.from:
					f.add(a.from, "", "address %s can't be a default: pods %s and %s would both have it", a, other.pod.name, p.name)
				default:
					f.add(a.from, other.from, "address %s is pod %s's already", a, other.pod.name)
				}
				continue
			}
			first[a.Addr] = place{p, a.from}
			if len(p.node.cidrs) < len(p.node.PodCIDRs) || len(p.node.cidrs) == 0 {
				// A broken or missing range is a mistake of its own, and this would follow from it.
				p.bad = true
				continue
			}
			a.cidr = p.node.cidrOf(a.Addr)
			if a.cidr == nil {
				f.add(a.from, p.node.path+".podCIDRs", "address %s is outside the podCIDRs of node %s (%s)",
					a, p.node.name, strings.Join(p.node.PodCIDRs, ", "))
				p.bad = true
			} else if use := a.cidr.reserved(a.Addr); use != "" {
				f.add(a.from, a.cidr.path, "address %s is %s of podCIDR %s, which no pod can have", a, use, a.cidr.Prefix)
				p.bad = true
			}
		}
	}
}

// checkPod finds mistakes in one pod's fields.
func (f *fleet) checkPod(p *pod) {
	wrong := func(path, other, format string, args ...any) {
		f.add(path, other, format, args...)
		p.bad = true
	}
	switch {
	case p.child() && len(p.node.Uplinks) == 0:
		wrong(p.from(p.attachFrom, "attach"), p.node.path, "attach %q needs an uplink, and node %s names none", p.Attach, p.node.name)
	case p.uplinkFrom != unset && !slices.Contains(p.node.Uplinks, p.Uplink):
		other, have := p.node.path, "names none"
		if len(p.node.Uplinks) > 0 {
			other, have = p.node.path+".uplinks", "has "+strings.Join(p.node.Uplinks, ", ")
		}
		wrong(p.from(p.uplinkFrom, "uplink"), other, "%q isn't an uplink of node %s, which %s", p.Uplink, p.node.name, have)
	case p.uplinkFrom == inPod && p.Attach != "auto" && !p.child():
		wrong(p.from(p.uplinkFrom, "uplink"), p.from(p.attachFrom, "attach"), "uplink is for macvlan and ipvlan; attach %q has no parent device", p.Attach)
	}
	if why := badDevName(p.device()); why != "" {
		wrong(p.from(p.interfaceFrom, "interface"), "", "%q can't be a device: %s", p.device(), why)
	} else if p.NetNS == "" && p.interfaceFrom != unset && p.Interface != "eth0" {
		wrong(p.from(p.interfaceFrom, "interface"), "", "interface is only for an adopted namespace (netns); a pod's own is eth0")
	} else if p.device() == "lo" || p.device() == detourName {
		wrong(p.from(p.interfaceFrom, "interface"), "", "%q is taken; choose another name", p.device())
	}
	if p.NetNS != "" && !strings.HasPrefix(p.NetNS, "/") {
		wrong(p.from(p.netnsFrom, "netns"), "", "%q isn't an absolute path such as /proc/4242/ns/net", p.NetNS)
	}
	for key := range p.Sysctls {
		if !strings.HasPrefix(sysctlKey(key), "net.") {
			wrong(p.sysctlFrom(key, f.cfg), "", "%s isn't a setting of a network namespace; those begin with net", key)
		}
	}
	if p.MTU != 0 && p.MTU < minIPv6MTU && p.has(true) {
		wrong(p.from(p.mtuFrom, "mtu"), "", "mtu %d is too small: IPv6 needs %d", p.MTU, minIPv6MTU)
	}
}

// checkUplinks finds pods of one uplink that differ in attachment: an uplink has one kind of children, in one mode.
func (f *fleet) checkUplinks(n *node) {
	first := map[string]*pod{}
	for _, p := range n.pods {
		if !p.child() {
			continue
		}
		q, ok := first[p.Uplink]
		if !ok {
			first[p.Uplink] = p
		} else if q.Attach != p.Attach {
			f.add(p.from(p.attachFrom, "attach"), q.from(q.attachFrom, "attach"),
				"pod %s is %s and pod %s is %s, both on uplink %s; the kernel has one kind and mode for all of an uplink",
				p.name, p.Attach, q.name, q.Attach, p.Uplink)
			p.bad = true
		}
	}
}

// checkAdopted finds two pods that adopt one namespace. Even with two interfaces they would take each other's for their own.
func (f *fleet) checkAdopted(n *node) {
	first := map[string]*pod{}
	for _, p := range n.pods {
		if p.NetNS == "" {
			continue
		}
		q, ok := first[p.cleanNetNS()]
		if !ok {
			first[p.cleanNetNS()] = p
			continue
		}
		f.add(p.from(p.netnsFrom, "netns"), q.from(q.netnsFrom, "netns"), "pods %s and %s adopt one namespace, %s; one pod can", q.name, p.name, p.NetNS)
		p.bad = true
	}
}

// badDevName says why the kernel refuses a name for a device; "" if it doesn't.
func badDevName(name string) string {
	switch {
	case name == "" || name == "." || name == "..":
		return "not a name"
	case len(name) > maxDevName:
		return "longer than 15 characters"
	case strings.ContainsAny(name, "/: \t\n"):
		return "it holds a slash, a colon or white space"
	}
	return ""
}
