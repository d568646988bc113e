package compiler

import (
	"fmt"
	"net/netip"
	"slices"

	"plumb.internal/plumb/reconciler/resource"
)

// unfitAddresses can't be a service's, nor a backend's: the kernel doesn't send packets for them to where they would be
// translated.
var unfitAddresses = []struct {
	netip.Prefix
	use string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this host"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.10.24/32"), "the pods' gateway"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("240.0.0.0/4"), "reserved"},
	{netip.MustParsePrefix("::/128"), "no address"},
	{netip.MustParsePrefix("::1/128"), "loopback"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

// serviceAddress reads an address of a service or a backend, or says why it can't be one.
func serviceAddress(text string) (a netip.Addr, why string) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil || a.Zone() != "":
		return a, fmt.Sprintf("%q isn't an IP address", text)
	case a.Is4In6():
		return a, fmt.Sprintf("%s is an IPv4 address in IPv6 form; write %s", text, a.Unmap())
	}
	for _, u := range unfitAddresses {
		if u.Contains(a) {
			return a, fmt.Sprintf("address %s can't be used: %s is %s", a, u.Prefix, u.use)
		}
	}
	return a, ""
}

// checkFrontends finds service addresses that are somebody else's, and frontends of two services.
func (f *fleet) checkFrontends() {
	if len(f.services) == 0 {
		return
	}
	type place struct {
		service *service
		index   int
	}
	nodes := f.nodeAddresses()
	cidrs := f.sortedCIDRs()
	first := make(map[resource.FrontendKey]place, len(f.services))
	ours := make(map[netip.Addr]place, len(f.services))
	for _, s := range f.services {
		for _, a := range s.addrs {
			from := element(s.path+".addresses", a.index)
			if path, ok := nodes[a.Addr]; ok {
				f.wrong(s, from, path, "service address %s is a node's own", a)
			}
			if c := holder(cidrs, a.Addr); c != nil {
				f.wrong(s, from, c.path, "service address %s is inside podCIDR %s; take it from a range that no pod and no device has", a, c.Prefix)
			}
			ours[a.Addr] = place{s, a.index}
			for _, p := range s.ports {
				k := resource.FrontendKey{At: netip.AddrPortFrom(a.Addr, uint16(p.Port.Port)), Protocol: p.Protocol}
				if o, ok := first[k]; ok && o.service == s {
					continue // said of the port
				} else if ok {
					f.wrong(s, from, element(o.service.path+".addresses", o.index), "%s port %d/%s is service %s's already",
						a, p.Port.Port, p.Protocol, o.service.name)
					continue
				}
				first[k] = place{s, a.index}
			}
		}
	}
	for _, s := range f.services {
		for _, b := range s.backends {
			if o, ok := ours[b.addr]; ok && b.pod == nil {
				f.wrong(s, element(s.path+".backends", b.index)+".address", element(o.service.path+".addresses", o.index),
					"backend %s is an address of service %s; name what answers for that", b.addr, o.service.name)
			}
		}
	}
}

// nodeAddresses maps the nodes' own addresses to where they are named.
func (f *fleet) nodeAddresses() map[netip.Addr]string {
	m := map[netip.Addr]string{}
	for _, n := range f.nodes {
		for i, text := range n.Addresses {
			if a, err := netip.ParseAddr(text); err == nil {
				m[a] = element(n.path+".addresses", i)
			}
		}
	}
	return m
}

// holder finds the range that holds an address among sorted ones.
func holder(cidrs []*cidr, a netip.Addr) *cidr {
	i, _ := slices.BinarySearchFunc(cidrs, a, func(c *cidr, a netip.Addr) int {
		if c.Addr().Compare(a) <= 0 {
			return -1
		}
		return 1
	})
	if i > 0 && cidrs[i-1].Contains(a) {
		return cidrs[i-1]
	}
	return nil
}
