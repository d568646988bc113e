package compiler

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"plumb.internal/plumb/reconciler/resource"
)

// backend answers for a service: a pod, of whatever node, or an address.
type backend struct {
	pod    *pod // nil: an address
	addr   netip.Addr
	port   int // 0: the target port
	weight int
	state  string
	index  int // in the list; -1: the selector found it
}

// readBackends finds the pods and addresses that answer for a service.
func (f *fleet) readBackends(s *service, labels *labelIndex) {
	if len(s.Selector) > 0 {
		if len(s.Backends) > 0 {
			f.wrong(s, s.path+".selector", s.path+".backends", "a service has backends or a selector, not both")
			return
		}
		for _, p := range labels.find(s.Selector) {
			s.backends = append(s.backends, backend{pod: p, weight: 1, state: resource.Active, index: -1})
		}
		return
	}
	s.backends = make([]backend, 0, len(s.Backends))
	for i, d := range s.Backends {
		b := backend{port: d.Port, weight: 1, state: cmp.Or(d.State, resource.Active), index: i}
		if d.Weight != nil {
			b.weight = *d.Weight
		}
		switch {
		case d.Pod == "" && d.Address == "":
			f.wrong(s, element(s.path+".backends", i), "", "a backend is a pod or an address; name one of them")
		case d.Pod != "" && d.Address != "":
			f.wrong(s, element(s.path+".backends", i), "", "a backend is a pod or an address, not both")
		case d.Pod != "":
			if b.pod = f.pod(d.Pod); b.pod == nil {
				f.wrong(s, element(s.path+".backends", i)+".pod", "", "no pod is named %q", d.Pod)
				continue
			}
		default:
			var why string
			if b.addr, why = serviceAddress(d.Address); why != "" {
				f.wrong(s, element(s.path+".backends", i)+".address", "", "%s", why)
				continue
			}
		}
		s.backends = append(s.backends, b)
	}
}

// pod finds a pod by its name; nil if there is none.
func (f *fleet) pod(name string) *pod {
	i, ok := slices.BinarySearchFunc(f.pods, name, func(p *pod, name string) int { return cmp.Compare(p.name, name) })
	if !ok {
		return nil
	}
	return f.pods[i]
}

// address is where the backend answers clients of one family; none if it speaks another one. A pod with several addresses
// of a family answers at the first.
func (b *backend) address(v6 bool) netip.Addr {
	if b.pod == nil {
		if b.addr.Is6() == v6 {
			return b.addr
		}
		return netip.Addr{}
	}
	for _, a := range b.pod.addrs {
		if a.Is6() == v6 {
			return a.Addr
		}
	}
	return netip.Addr{}
}

// labelIndex finds pods by their labels. It is made when the first selector asks.
type labelIndex struct {
	f    *fleet
	pods map[[2]string][]*pod
}

// find lists the pods that have all of the labels, in the order of names.
func (x *labelIndex) find(selector map[string]string) []*pod {
	if x.pods == nil {
		x.pods = map[[2]string][]*pod{}
		for _, p := range x.f.pods {
			for k, v := range p.Labels {
				x.pods[[2]string{k, v}] = append(x.pods[[2]string{k, v}], p)
			}
		}
	}
	keys := slices.Sorted(maps.Keys(selector))
	rarest := slices.MinFunc(keys, func(a, b string) int {
		return len(x.pods[[2]string{a, selector[a]}]) - len(x.pods[[2]string{b, selector[b]}])
	})
	var found []*pod
	for _, p := range x.pods[[2]string{rarest, selector[rarest]}] {
		if !slices.ContainsFunc(keys, func(k string) bool { v, ok := p.Labels[k]; return !ok || v != selector[k] }) {
			found = append(found, p)
		}
	}
	return found
}
