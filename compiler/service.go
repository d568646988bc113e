package compiler

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/schema"
)

// service is one service. Every node has all of them: who runs a backend doesn't decide who may be its client.
type service struct {
	schema.Service
	name, path string
	addrs      []serviceAddr
	ports      []servicePort // in the order of names
	backends   []backend
	affinity   time.Duration
	health     HealthTarget // of whatever backend; without a type for none
	// bad services have a mistake already; no frontends are made of them.
	bad bool
}

// serviceAddr is one address of a service, and the field that names it.
type serviceAddr struct {
	netip.Addr
	index int
}

// servicePort is one port of a service, with its defaults filled in.
type servicePort struct {
	schema.Port
	name string
}

// readServices fills in the defaults of the services, finds their backends, and checks what needs no kernel.
func (f *fleet) readServices() {
	all := make([]service, len(f.cfg.Services))
	f.services = make([]*service, 0, len(all))
	labels := labelIndex{f: f}
	for i, name := range slices.Sorted(maps.Keys(f.cfg.Services)) {
		s := &all[i]
		s.Service, s.name, s.path = f.cfg.Services[name], name, field("services", name)
		f.services = append(f.services, s)
		f.readServiceAddresses(s)
		f.readServicePorts(s)
		f.readAlgorithm(s)
		f.readHealth(s)
		f.readBackends(s, &labels)
	}
}

// wrong notes a mistake in a service.
func (f *fleet) wrong(s *service, path, other, format string, args ...any) {
	f.add(path, other, format, args...)
	s.bad = true
}

func (f *fleet) readServiceAddresses(s *service) {
	list := s.path + ".addresses"
	if len(s.Addresses) == 0 && len(s.ExternalAddresses) == 0 {
		f.wrong(s, s.path, "", `addresses is missing, and nobody can reach a service without any; add addresses: ["10.96.0.1"]`)
	}
	s.addrs = make([]serviceAddr, 0, len(s.Addresses))
	for i, text := range s.Addresses {
		a, why := serviceAddress(text)
		if why != "" {
			f.wrong(s, element(list, i), "", "%s", why)
			continue
		}
		if j := slices.IndexFunc(s.addrs, func(o serviceAddr) bool { return o.Addr == a }); j >= 0 {
			f.wrong(s, element(list, i), element(list, s.addrs[j].index), "address %s is listed twice", a)
			continue
		}
		s.addrs = append(s.addrs, serviceAddr{a, i})
	}
}

func (f *fleet) readServicePorts(s *service) {
	if len(s.Ports) == 0 {
		f.wrong(s, s.path, "", "ports is missing; add ports: http: {port: 80, targetPort: 8080}")
	}
	s.ports = make([]servicePort, 0, len(s.Ports))
	for name, port := range s.Ports {
		s.ports = append(s.ports, servicePort{port, name})
	}
	if len(s.ports) > 1 {
		slices.SortFunc(s.ports, func(a, b servicePort) int { return strings.Compare(a.name, b.name) })
	}
	for i := range s.ports {
		p := &s.ports[i]
		if p.Protocol == "" {
			p.Protocol = "TCP"
		}
		if p.TargetPort == 0 {
			p.TargetPort = p.Port.Port
		}
		same := func(o servicePort) bool { return o.Port.Port == p.Port.Port && o.Protocol == p.Protocol }
		if j := slices.IndexFunc(s.ports[:i], same); j >= 0 {
			f.wrong(s, s.portPath(*p), s.portPath(s.ports[j]), "port %d/%s is there twice", p.Port.Port, p.Protocol)
		}
	}
}

func (s *service) portPath(p servicePort) string { return field(s.path+".ports", p.name) + ".port" }

// Limits of affinity: what a client's entry is told in, and what is still one visit.
const (
	minAffinity = time.Second
	maxAffinity = 24 * time.Hour
)

func (f *fleet) readAlgorithm(s *service) {
	if s.TableSize != 0 && s.Algorithm != resource.Maglev {
		other := ""
		if s.Algorithm != "" {
			other = s.path + ".algorithm"
		}
		f.wrong(s, s.path+".tableSize", other, `only algorithm "maglev" has a table`)
	}
	if s.Affinity.Timeout == "" {
		return
	}
	d, err := time.ParseDuration(s.Affinity.Timeout)
	if err != nil || d < minAffinity || d > maxAffinity || d%time.Second != 0 {
		f.wrong(s, s.path+".affinity.timeout", "", "%q isn't a time-out for affinity; it is told in whole seconds, from 1s to 24h", s.Affinity.Timeout)
	}
	s.affinity = d
}

// algorithm is what the service's clients are shared out by.
func (s *service) algorithm() string {
	if !asks(s.Algorithm) {
		return settingOf(algorithm).options[0].value // which is there everywhere
	}
	return s.Algorithm
}

// maglevSizes are the sizes of Maglev tables by the number of backends that a service declares, in whatever state: about a
// thousand slots a backend, so that one which goes moves few flows of others. Health and drain never change the size.
var maglevSizes = []struct{ backends, size int }{{3, 4093}, {15, 16381}, {60, 65521}}

// tableSize is the size of the service's Maglev table, 0 if it has none.
func (s *service) tableSize() int {
	if s.algorithm() != resource.Maglev {
		return 0
	}
	if s.TableSize != 0 {
		return s.TableSize
	}
	for _, c := range maglevSizes {
		if len(s.backends) <= c.backends {
			return c.size
		}
	}
	return 131071
}
