package compiler

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	svc "plumb.internal/plumb/reconciler/resource/service"
)

// frontend is what clients talk to, and the field that asks for it.
type frontend struct {
	resource.Frontend
	from string
}

// settleServices gives backends of other nodes their addresses and makes the frontends of all services.
func (b *builder) settleServices() {
	if len(b.services) == 0 {
		return
	}
	b.warnIPv6Services()
	b.frontends = make([]frontend, 0, len(b.services))
	var left, open []string
	for _, s := range b.services {
		if s.bad {
			continue
		}
		if !asks(s.Algorithm) {
			open = append(open, s.name)
		}
		if !b.settleService(s) {
			left = append(left, s.name)
		}
	}
	b.sortHealth()
	b.checkIDs(svc.HashID)
	if len(left) > 0 {
		b.warn("clients of these services are refused at once at an address that no backend answers for: %s", few(left))
	}
	if len(open) > 0 {
		// One line, however many leave it out.
		subject := field("services", open[0]) + ".algorithm"
		if len(open) > 1 {
			subject = "services.*.algorithm"
		}
		chosen, why := settingOf(algorithm).auto(b.situation())
		b.choice(subject, "auto", chosen, sentences(why, "services that leave it open: "+few(open)))
	}
}

// warnIPv6Services says which addresses of services nobody reaches on a node without IPv6. That is no mistake: all nodes
// have all services, and others may have IPv6.
func (b *builder) warnIPv6Services() {
	if b.set.Supports(features.IPv6) {
		return
	}
	var unreached []string
	for _, s := range b.services {
		for _, a := range s.addrs {
			if a.Is6() {
				unreached = append(unreached, fmt.Sprintf("%s (%s)", element(s.path+".addresses", a.index), a))
			}
		}
	}
	if len(unreached) > 0 {
		b.warn("nobody on node %s reaches the IPv6 addresses of services, and they are left out: %s: %s",
			b.node.name, lacks(b.set, features.IPv6), few(unreached))
	}
}

// takesClients reports whether new clients are sent to the backend.
func takesClients(b resource.Backend) bool { return b.State == resource.Active && b.Weight > 0 }

// few lists names, or how many there are more.
func few(names []string) string {
	const most = 5
	if rest := len(names) - most; rest > 1 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), rest)
	}
	return strings.Join(names, ", ")
}

// giveOthers gives addresses to the pods of other nodes that have backends, or what this node checks, among them, as those
// nodes do it themselves.
func (b *builder) giveOthers() {
	needed := map[*node]bool{}
	need := func(p *pod) {
		if p != nil && len(p.Addresses) == 0 && p.node != nil && p.node != b.node {
			needed[p.node] = true
		}
	}
	for _, s := range b.services {
		for _, d := range s.backends {
			need(d.pod)
		}
	}
	for _, c := range b.checks {
		if c.node == b.node {
			need(c.pod)
		}
	}
	for _, n := range b.nodes {
		if needed[n] {
			b.give(n, n.unaddressed())
		}
	}
}

// settleService makes the frontends of one service. It reports whether each of them has backends.
func (b *builder) settleService(s *service) (answered bool) {
	speaks := map[bool]bool{}
	for _, a := range s.addrs {
		speaks[a.Is6()] = true
	}
	b.checkFamilies(s, speaks)
	b.checkTable(s)
	if !b.set.Supports(features.IPv6) {
		delete(speaks, true)
	}
	answered = true
	var rounded []resource.Backend // as every port and family has it, one of them is told
	for _, p := range s.ports {
		lists := map[bool][]resource.Backend{} // addresses of a family share one
		for _, v6 := range []bool{false, true} {
			if speaks[v6] {
				lists[v6] = b.backendList(s, p, v6)
				answered = answered && slices.ContainsFunc(lists[v6], takesClients)
				// Maglev's table knows the weights.
				if rounded == nil && s.algorithm() != resource.Maglev && !resource.Fit(lists[v6]) {
					if _, _, exact := resource.Shares(lists[v6]); !exact {
						rounded = lists[v6]
					}
				}
			}
		}
		from := field(s.path+".ports", p.name)
		for _, a := range s.addrs {
			if !speaks[a.Is6()] {
				continue
			}
			made := frontend{from: from, Frontend: resource.Frontend{
				Address: a.Addr, Port: uint16(p.Port.Port), Protocol: p.Protocol,
				Algorithm: s.algorithm(), TableSize: s.tableSize(), Affinity: s.affinity, Backends: lists[a.Is6()],
			}}
			b.frontends = append(b.frontends, made)
			b.probeBackends(s, p, made.Name(), a.Is6())
		}
	}
	if rounded != nil {
		b.out.Warnings = append(b.out.Warnings, fmt.Sprintf("weights of service %s are rounded: %s", s.name, shares(rounded)))
	}
	return answered
}

// shares tells what becomes of weights, by backend.
func shares(backends []resource.Backend) string {
	each, of, _ := resource.Shares(backends)
	var words []string
	for i, n := range each {
		if n > 0 {
			words = append(words, fmt.Sprintf("%s gets %d (weight %d)", backends[i].At(), n, backends[i].Weight))
		}
	}
	return fmt.Sprintf("of %d new clients %s", of, few(words))
}

// backendList is who answers for a port in one family.
func (b *builder) backendList(s *service, p servicePort, v6 bool) []resource.Backend {
	list := make([]resource.Backend, 0, len(s.backends))
	indices := make(map[netip.AddrPort]int, len(s.backends))
	for i := range s.backends {
		d := &s.backends[i]
		a := d.address(v6)
		if !a.IsValid() {
			continue
		}
		at := netip.AddrPortFrom(a, uint16(cmp.Or(d.port, p.TargetPort)))
		if j, ok := indices[at]; ok {
			b.add(element(s.path+".backends", d.index), element(s.path+".backends", j), "backend %s is there twice; give it a weight instead", at)
			continue
		}
		indices[at] = d.index
		list = append(list, resource.Backend{Address: a, Port: at.Port(), Weight: d.weight, State: d.state})
	}
	slices.SortFunc(list, resource.Backend.Compare)
	return list
}

// checkFamilies finds backends that speak none of the service's families. Pods that a selector finds may be such.
func (b *builder) checkFamilies(s *service, speaks map[bool]bool) {
	for i := range s.backends {
		d := &s.backends[i]
		if d.index < 0 || d.pod != nil && d.pod.bad || len(s.addrs) == 0 {
			continue
		}
		if speaks[false] && d.address(false).IsValid() || speaks[true] && d.address(true).IsValid() {
			continue
		}
		family := map[bool]string{false: "IPv4", true: "IPv6"}[speaks[true]]
		path := element(s.path+".backends", d.index)
		if d.pod != nil {
			b.add(path+".pod", s.path+".addresses", "pod %s has no %s address, and service %s has no others", d.pod.name, family, s.name)
		} else {
			b.add(path+".address", s.path+".addresses", "backend %s isn't an %s address, and service %s has no others", d.addr, family, s.name)
		}
	}
}

// coarse is the number of slots a backend below which a Maglev table moves more flows than it needs to.
const coarse = 100

// checkTable finds Maglev tables that are too small for their backends.
func (b *builder) checkTable(s *service) {
	size, n := s.tableSize(), len(s.backends)
	if size == 0 {
		return
	}
	path := s.path
	if s.TableSize != 0 {
		path += ".tableSize"
	}
	switch {
	case n > size:
		b.add(path, "", "%d backends don't fit a Maglev table of %d slots", n, size)
	case n > 1<<16-1:
		b.add(path, "", "%d backends are more than a Maglev table can tell apart, which is %d", n, 1<<16-1)
	case s.TableSize != 0 && n*coarse > size:
		b.warn("the Maglev table of service %s has %d slots for %d backends: when one goes, more than its own clients may move to others; %d slots a backend are enough",
			s.name, size, n, coarse)
	}
}

// checkIDs finds services, or backends, that the maps couldn't tell apart: their ids are hashes. Nobody will ever see this.
func (b *builder) checkIDs(hash func(netip.Addr, uint16, string) uint64) {
	services := make(map[uint64]resource.FrontendKey, len(b.frontends))
	backends := make(map[uint64]resource.FrontendKey, len(b.frontends))
	check := func(ids map[uint64]resource.FrontendKey, e resource.FrontendKey, from string) {
		id := hash(e.At.Addr(), e.At.Port(), e.Protocol)
		if o, ok := ids[id]; ok && o != e {
			b.add(from, "", "%s/%s and %s/%s have one id in the eBPF maps; change a port of one of them", o.At, o.Protocol, e.At, e.Protocol)
		}
		ids[id] = e
	}
	for i := range b.frontends {
		f := &b.frontends[i]
		check(services, f.Key(), f.from)
		for _, d := range f.Backends {
			check(backends, resource.FrontendKey{At: d.At(), Protocol: f.Protocol}, f.from)
		}
	}
}
