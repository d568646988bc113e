package compiler

import (
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"

	"plumb.internal/plumb/schema"
)

// layer is where a merged field of a pod was set.
type layer uint8

const (
	unset layer = iota
	inPod
	inNodeDefaults
	inDefaults
	inNodeTuning
	inTuning
)

// pod is one pod with its defaults merged.
type pod struct {
	schema.Pod
	name, path string
	node       *node
	addrs      []address

	// Where the merged fields come from.
	nodeFrom, attachFrom, uplinkFrom, addrsFrom, mtuFrom, netnsFrom, interfaceFrom, congestionFrom layer
	egressFrom, ingressFrom                                                                        layer

	limits limits

	// congestion is the pod's congestion control once it is settled, "" to leave the kernel's, and the field that asks for it.
	congestion, congestionPath string

	// bad pods have a mistake already; nothing more is said of them that could follow from it.
	bad bool
}

// address is one address of a pod.
type address struct {
	netip.Addr
	cidr *cidr
	from string // the field that asks for it
}

// child reports whether the pod's device sits on an uplink.
func (p *pod) child() bool { return onUplink(p.Attach) }

func onUplink(attach string) bool {
	return attach == "macvlan" || attach == "ipvlan-l2" || attach == "ipvlan-l3"
}

// has reports whether the pod has an address of a family.
func (p *pod) has(v6 bool) bool {
	return slices.ContainsFunc(p.addrs, func(a address) bool { return a.Is6() == v6 })
}

// from is the path of a merged field.
func (p *pod) from(l layer, name string) string {
	switch l {
	case inPod:
		return p.path + "." + name
	case inNodeDefaults:
		return p.node.path + ".podDefaults." + name
	case inDefaults:
		return "podDefaults." + name
	case inNodeTuning:
		return p.node.path + ".tuning." + name
	case inTuning:
		return "tuning." + name
	}
	return p.path
}

// readPods merges every pod with its defaults and gives it to its node.
func (f *fleet) readPods(nodes map[string]*node) {
	all := make([]pod, len(f.cfg.Pods))
	f.pods = make([]*pod, 0, len(all))
	for i, name := range slices.Sorted(maps.Keys(f.cfg.Pods)) {
		p := &all[i]
		p.Pod, p.name, p.path = f.cfg.Pods[name], name, field("pods", name)
		f.pods = append(f.pods, p)
		pick(&p.Node, &p.nodeFrom, "", f.cfg.PodDefaults.Node)
		switch {
		case p.Node != "":
			p.node = nodes[p.Node]
		case len(f.nodes) == 1:
			p.node = f.nodes[0]
		}
		if p.node == nil {
			p.bad = true
			f.homeless(p)
			continue
		}
		p.node.pods = append(p.node.pods, p)
		p.merge(&p.node.PodDefaults, &f.cfg.PodDefaults)
		f.readAddresses(p)
		f.readLimits(p)
	}
}

// homeless notes that a pod has no node. Where no node is declared at all, that is one mistake, not one a pod.
func (f *fleet) homeless(p *pod) {
	names := make([]string, len(f.nodes))
	for i, n := range f.nodes {
		names[i] = n.name
	}
	switch {
	case len(names) == 0:
	case p.Node != "":
		f.add(p.from(p.nodeFrom, "node"), "", "no node is named %q; %s", p.Node, declared(names))
	default:
		f.add(p.path, "", "node is missing, and there is more than one: %s", declared(names))
	}
}

// merge fills in what the pod leaves out from the defaults of its node, then from those of the whole configuration.
func (p *pod) merge(node, all *schema.Pod) {
	pick(&p.Attach, &p.attachFrom, node.Attach, all.Attach)
	pick(&p.Uplink, &p.uplinkFrom, node.Uplink, all.Uplink)
	pick(&p.MTU, &p.mtuFrom, node.MTU, all.MTU)
	pick(&p.NetNS, &p.netnsFrom, node.NetNS, all.NetNS)
	pick(&p.Interface, &p.interfaceFrom, node.Interface, all.Interface)
	pick(&p.Bandwidth.Egress, &p.egressFrom, node.Bandwidth.Egress, all.Bandwidth.Egress)
	pick(&p.Bandwidth.Ingress, &p.ingressFrom, node.Bandwidth.Ingress, all.Bandwidth.Ingress)
	pick(&p.CongestionControl, &p.congestionFrom, node.CongestionControl, all.CongestionControl)
	if p.Attach == "" {
		p.Attach = "auto"
	}
	if p.Uplink == "" && len(p.node.Uplinks) > 0 {
		p.Uplink = p.node.Uplinks[0]
	}
	p.addrsFrom = inPod
	if len(p.Addresses) == 0 && len(node.Addresses) > 0 {
		p.Addresses, p.addrsFrom = node.Addresses, inNodeDefaults
	} else if len(p.Addresses) == 0 && len(all.Addresses) > 0 {
		p.Addresses, p.addrsFrom = all.Addresses, inDefaults
	}
	p.Sysctls = mergeWords(p.Sysctls, node.Sysctls, all.Sysctls)
	p.Labels = mergeWords(p.Labels, node.Labels, all.Labels)
}

// mergeWords adds to a pod's own words those of its defaults, the nearest of each name.
func mergeWords(own, node, all map[string]string) map[string]string {
	if len(node)+len(all) == 0 {
		return own
	}
	merged := make(map[string]string, len(own)+len(node)+len(all))
	for _, m := range []map[string]string{all, node, own} {
		maps.Copy(merged, m)
	}
	return merged
}

// pick takes the first value that is set, nearest first, and notes where.
func pick[T comparable](value *T, from *layer, node, all T) {
	var zero T
	switch {
	case *value != zero:
		*from = inPod
	case node != zero:
		*value, *from = node, inNodeDefaults
	case all != zero:
		*value, *from = all, inDefaults
	}
}

// readAddresses parses the addresses that the pod asks for.
func (f *fleet) readAddresses(p *pod) {
	if len(p.Addresses) == 0 {
		return
	}
	p.addrs = make([]address, 0, len(p.Addresses))
	list := p.from(p.addrsFrom, "addresses")
	for i, text := range p.Addresses {
		from := element(list, i)
		ip, err := netip.ParseAddr(text)
		switch {
		case err != nil || ip.Zone() != "":
			f.add(from, "", "%q isn't an IP address", text)
			p.bad = true
		case ip.Is4In6():
			f.add(from, "", "%s is an IPv4 address in IPv6 form; write %s", text, ip.Unmap())
			p.bad = true
		default:
			p.addrs = append(p.addrs, address{Addr: ip, from: from})
		}
	}
}

// device is the name of the pod's interface.
func (p *pod) device() string {
	if p.Interface != "" {
		return p.Interface
	}
	return "eth0"
}

// sysctlFrom is where a sysctl of the pod was set.
func (p *pod) sysctlFrom(key string, cfg *schema.Config) string {
	l := inDefaults
	if _, ok := p.node.PodDefaults.Sysctls[key]; ok {
		l = inNodeDefaults
	}
	if _, ok := cfg.Pods[p.name].Sysctls[key]; ok {
		l = inPod
	}
	return field(p.from(l, "sysctls"), key)
}

// sysctlKey writes a key with dots between its parts. Like sysctl(8) it takes slashes too: the first separator decides.
func sysctlKey(key string) string {
	if i := strings.IndexAny(key, "./"); i < 0 || key[i] == '.' {
		return key
	}
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, key)
}

// cleanNetNS is the path of an adopted namespace in its plain form.
func (p *pod) cleanNetNS() string { return path.Clean(p.NetNS) }
