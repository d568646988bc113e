package compiler

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"plumb.internal/plumb/schema"
)

// fleet is a whole configuration with its defaults merged and its places known.
type fleet struct {
	cfg      *schema.Config
	nodes    []*node // in the order of names, as are pods and services
	pods     []*pod
	services []*service
	checks   []*check // those that have no mistake
	problems
}

// node is one machine.
type node struct {
	schema.Node
	name, path string
	cidrs      []*cidr
	pods       []*pod
}

// cidr is one range that pods of a node have their addresses from.
type cidr struct {
	netip.Prefix
	path string
	// gateway is the first address. It and last, the broadcast address of IPv4, are never a pod's.
	gateway, last netip.Addr
}

// readFleet merges the defaults and checks everything that doesn't depend on a kernel.
func readFleet(cfg *schema.Config) *fleet {
	f := &fleet{cfg: cfg}
	byName := make(map[string]*node, len(cfg.Nodes))
	for _, name := range slices.Sorted(maps.Keys(cfg.Nodes)) {
		n := f.readNode(name)
		f.nodes = append(f.nodes, n)
		byName[name] = n
	}
	f.readPods(byName)
	f.readServices()
	f.readChecks()
	refuseUnbuilt(f)
	f.check()
	f.checkFrontends()
	return f
}

func (f *fleet) readNode(name string) *node {
	n := &node{Node: f.cfg.Nodes[name], name: name, path: field("nodes", name)}
	for i, text := range n.PodCIDRs {
		path := element(n.path+".podCIDRs", i)
		c, err := parseCIDR(text)
		if err != nil {
			f.add(path, "", "%v", err)
			continue
		}
		c.path = path
		n.cidrs = append(n.cidrs, c)
	}
	return n
}

func parseCIDR(text string) (*cidr, error) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q isn't an address range such as 10.0.0.0/24", text)
	case p.Addr().Is4In6():
		return nil, fmt.Errorf("%s is an IPv4 range in IPv6 form; write it as IPv4", p)
	case p != p.Masked():
		return nil, fmt.Errorf("%s has bits set after the prefix; the range is %s", p, p.Masked())
	case p.Addr().BitLen()-p.Bits() < 2:
		return nil, fmt.Errorf("%s has no room for a gateway and a pod; use /%d or shorter", p, p.Addr().BitLen()-2)
	}
	for _, reserved := range reservedRanges {
		if p.Overlaps(reserved.Prefix) {
			return nil, fmt.Errorf("%s can't hold pods: %s is %s", p, reserved.Prefix, reserved.use)
		}
	}
	return &cidr{Prefix: p, gateway: p.Addr().Next(), last: lastOf(p)}, nil
}

// reservedRanges can't be routed to pods.
var reservedRanges = []struct {
	netip.Prefix
	use string
}{
	{netip.MustParsePrefix("0.0.0.0/8"), "this host"},
	{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local, and holds the pods' gateway"},
	{netip.MustParsePrefix("224.0.0.0/3"), "multicast or reserved"},
	{netip.MustParsePrefix("::/127"), "loopback"},
	{netip.MustParsePrefix("fe80::/10"), "link-local, and holds the pods' gateway"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
}

// lastOf is the last address of a range.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// reserved says what an address of the range is used for, or "".
func (c *cidr) reserved(a netip.Addr) string {
	switch {
	case a == c.gateway:
		return "the gateway"
	case a == c.Addr() && a.Is4():
		return "the network address"
	case a == c.Addr():
		return "the anycast address of routers"
	case a == c.last && a.Is4():
		return "the broadcast address"
	}
	return ""
}

// cidrOf finds the range that holds an address; nil if none does.
func (n *node) cidrOf(a netip.Addr) *cidr {
	for _, c := range n.cidrs {
		if c.Contains(a) {
			return c
		}
	}
	return nil
}

// SelectNode says which node a command is about: flag if set, else the host's name if a node has it (with or without its
// domain), else the only node.
func SelectNode(cfg *schema.Config, flag, hostname string) (string, error) {
	names := slices.Sorted(maps.Keys(cfg.Nodes))
	if flag != "" {
		if _, ok := cfg.Nodes[flag]; !ok {
			return "", fmt.Errorf("select node: no node is named %q; %s", flag, declared(names))
		}
		return flag, nil
	}
	short, _, _ := strings.Cut(hostname, ".")
	for _, name := range []string{hostname, short} {
		if _, ok := cfg.Nodes[name]; ok {
			return name, nil
		}
	}
	if len(names) == 1 {
		return names[0], nil
	}
	if len(names) == 0 {
		return "", fmt.Errorf("select node: %s", noNodes)
	}
	return "", fmt.Errorf("select node: this host, %q, isn't a node; choose one with --node; %s", hostname, declared(names))
}

// declared lists the nodes for an error message.
func declared(names []string) string {
	if len(names) == 0 {
		return "no node is declared"
	}
	const most = 8
	if rest := len(names) - most; rest > 0 {
		return fmt.Sprintf("the nodes are %s and %d more", strings.Join(names[:most], ", "), rest)
	}
	return "the nodes are " + strings.Join(names, ", ")
}
