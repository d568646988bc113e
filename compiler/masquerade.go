package compiler

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/endpoint"
	"plumb.internal/plumb/reconciler/resource/exclusion"
	"plumb.internal/plumb/reconciler/resource/nft"
)

// The ways to masquerade, as routing.masquerade names them.
const (
	masqueradeBPF      = "bpf"
	masqueradeNftables = "nftables"
	masqueradeOff      = "off"
)

// settleMasquerade decides by which address pods reach the outside. Where no file says anything it is their own.
func (b *builder) settleMasquerade() {
	d := &b.datapath
	wanted, path := b.wish(b.node.Routing.Masquerade, b.cfg.Routing.Masquerade, masquerading)
	listed, listPath := b.listedExclusions()
	for i, text := range listed {
		if p, why := parseRange(text); why != "" {
			b.add(element(listPath, i), "", "masqueradeExclude: %s", why)
		} else {
			d.excluded = append(d.excluded, p)
		}
	}
	if wanted == "" {
		if len(listed) > 0 {
			b.add(listPath, "", "masqueradeExclude says what isn't masqueraded, and nothing is on node %s; set routing.masquerade", b.node.name)
		}
		return
	}
	if !slices.ContainsFunc(b.node.pods, func(p *pod) bool { return !p.child() }) {
		if len(b.node.pods) > 0 {
			b.choice(masquerading, wanted, masqueradeOff, leaveByThemselves(b.situation()))
		}
		return
	}
	d.masquerade, d.masqueradeFrom = b.choose(masquerading, wanted, path, b.situation()), path
	// What began by the programs lives on when another way is taken.
	d.masqueradeDrain = (d.masquerade == masqueradeOff || d.masquerade == masqueradeNftables) &&
		settingOf(masquerading).option(masqueradeBPF).obstacle(b.situation()) == ""
}

// listedExclusions are the ranges that the files name, and where: the node's own list takes the place of the general one.
func (b *builder) listedExclusions() (ranges []string, path string) {
	if own := b.node.Routing.MasqueradeExclude; len(own) > 0 {
		return own, b.node.path + ".routing.masqueradeExclude"
	}
	return b.cfg.Routing.MasqueradeExclude, "routing.masqueradeExclude"
}

// parseRange reads a range of addresses, or says what is wrong with it.
func parseRange(text string) (p netip.Prefix, why string) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return p, fmt.Sprintf("%q isn't an address range such as 172.16.0.0/12", text)
	case p.Addr().Is4In6():
		return p, fmt.Sprintf("%s is an IPv4 range in IPv6 form; write it as IPv4", p)
	case p != p.Masked():
		return p, fmt.Sprintf("%s has bits set after the prefix; the range is %s", p, p.Masked())
	}
	return p, ""
}

// unmasqueraded are the destinations that pods reach by their own addresses: all pods, all nodes, and what the files list.
func (b *builder) unmasqueraded() []netip.Prefix {
	all := slices.Clone(b.datapath.excluded)
	for _, n := range b.nodes {
		for _, c := range n.cidrs {
			all = append(all, c.Prefix)
		}
		for _, text := range n.Addresses {
			if a, err := netip.ParseAddr(text); err == nil {
				all = append(all, host(a.Unmap()))
			}
		}
	}
	return exclusion.Sorted(all)
}

// firstAddress is the node's first one of a family; zero where it has none.
func (n *node) firstAddress(v6 bool) netip.Addr {
	for _, text := range n.Addresses {
		if a, err := netip.ParseAddr(text); err == nil && a.Unmap().Is6() == v6 {
			return a.Unmap()
		}
	}
	return netip.Addr{}
}

// atUplink says why the programs of uplinks can't masquerade here.
func atUplink(s *situation) string {
	n := s.node
	switch {
	case len(n.Uplinks) == 0:
		return "the node names no uplink"
	case len(n.Uplinks) > 1:
		return fmt.Sprintf("the node has %d uplinks (%s), and nothing says which of its addresses belong to which", len(n.Uplinks), strings.Join(n.Uplinks, ", "))
	}
	for _, v6 := range []bool{false, true} {
		if n.firstAddress(v6).IsValid() || !slices.ContainsFunc(n.pods, func(p *pod) bool { return !p.child() && p.has(v6) }) {
			continue
		}
		family := "IPv4"
		if v6 {
			family = "IPv6"
		}
		return fmt.Sprintf("pods have %s addresses, and nodes.%s.addresses names none of the node's own", family, n.name)
	}
	if h := s.set.Host; h != nil {
		d, ok := h.Devices[n.Uplinks[0]]
		switch {
		case !ok:
			return "this machine has no device " + n.Uplinks[0]
		case d.NoEthernet:
			return "uplink " + n.Uplinks[0] + " has no Ethernet frames"
		case h.LocalPorts != "" && firstPort(h.LocalPorts) <= bpf.LastMasqueradePort:
			return fmt.Sprintf("net.ipv4.ip_local_port_range is %s, and the programs take ports of %d-%d, which the node's own connections mustn't have",
				h.LocalPorts, bpf.FirstMasqueradePort, bpf.LastMasqueradePort)
		}
	}
	return ""
}

// firstPort is the first one of a range; 0 where it is none.
func firstPort(ports string) (port int) {
	_, _ = fmt.Sscanf(ports, "%d", &port)
	return port
}

// anyUplink says why nothing can be told of what leaves the node.
func anyUplink(s *situation) string {
	if len(s.node.Uplinks) == 0 {
		return "the node names no uplink"
	}
	return ""
}

// leaveByThemselves says which pods aren't masqueraded, whatever is chosen.
func leaveByThemselves(s *situation) string {
	if slices.ContainsFunc(s.node.pods, (*pod).child) {
		return "macvlan and ipvlan pods leave by the uplink themselves, with their own addresses"
	}
	return ""
}

// masqueraded is what the node's nftables table does about it.
func (b *builder) masqueraded() nft.Masquerade {
	if b.datapath.masquerade != masqueradeNftables {
		return nft.Masquerade{}
	}
	var pods []netip.Prefix
	for _, c := range b.node.cidrs {
		pods = append(pods, c.Prefix)
	}
	return nft.Masquerade{Pods: nft.Ranges(pods), Excluded: nft.Ranges(b.unmasqueraded()), Uplinks: slices.Sorted(slices.Values(b.node.Uplinks))}
}

// onUplinks reports whether programs masquerade at uplinks, or still translate what they began.
func (d *datapath) onUplinks() bool { return d.masquerade == masqueradeBPF || d.masqueradeDrain }

// uplinkObject is the object that the programs of uplinks are of.
func (d *datapath) uplinkObject() string {
	if d.onUplinks() {
		return objectPacket
	}
	return d.packet
}

// masqueradeSettings adds to the settings of the programs of uplinks.
func (b *builder) masqueradeSettings(settings map[string]uint32) {
	d := &b.datapath
	if !d.onUplinks() {
		return
	}
	if d.masqueradeDrain {
		settings["masquerade_drain"] = 1
	} else {
		settings["masquerade"] = 1
	}
	maps.Copy(settings, bpf.MasqueradeSettings(b.node.firstAddress(false), b.node.firstAddress(true)))
}

// known makes, and returns, what the programs that masquerade have to know first: all pods, and what is excluded.
func (b *builder) known(used usedMaps) (ids []resource.ID) {
	if !b.datapath.onUplinks() {
		return nil
	}
	e := exclusion.Exclusions{Prefixes: b.unmasqueraded(), Maps: only(used, "excluded"), From: b.datapath.masqueradeFrom}
	b.put(e)
	ids = append(ids, e.ID())
	for _, w := range b.wirings {
		ids = append(ids, endpoint.For(w.name))
	}
	return ids
}
