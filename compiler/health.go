package compiler

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"plumb.internal/plumb/reconciler/resource"
)

// HealthProbe is one question that is asked again and again, and the backends that it tells of.
type HealthProbe struct {
	HealthTarget
	Backends []HealthBackend // in order
}

// HealthTarget is what tells probes apart.
type HealthTarget struct {
	At       netip.AddrPort // icmp has no port
	Type     string         // tcp, http or icmp
	Path     string         // of http
	Interval time.Duration
	Timeout  time.Duration
	// Failures one after the other take the backends out, Successes bring them back.
	Failures, Successes int
}

// HealthBackend is one backend of one frontend.
type HealthBackend struct {
	Frontend string // as resource.Frontend names it
	Backend  netip.AddrPort
}

// The defaults of health, and its limits.
const (
	healthInterval  = 2 * time.Second
	healthTimeout   = time.Second // half the interval where that is less
	healthFailures  = 3
	healthSuccesses = 2

	minHealthInterval = 100 * time.Millisecond
	maxHealthInterval = time.Hour
	minHealthTimeout  = 10 * time.Millisecond
)

// readHealth fills in the defaults of a service's health.
func (f *fleet) readHealth(s *service) {
	h := s.Health
	if h.Type == "" {
		return
	}
	path := s.path + ".health"
	if i := s.askedPort(); i < 0 && h.Type != typeICMP && len(s.ports) > 0 {
		f.wrong(s, path+".type", s.path+".ports", "health of type %s asks a TCP port, and service %s has none; take icmp", h.Type, s.name)
	}
	if h.Path != "" && h.Type != typeHTTP {
		f.wrong(s, path+".path", path+".type", "only health of type http asks for a path")
	}
	duration := func(name, text string, least, most, otherwise time.Duration) time.Duration {
		if text == "" {
			return otherwise
		}
		d, err := time.ParseDuration(text)
		if err != nil || d < least || d > most {
			f.wrong(s, path+"."+name, "", "%s %q isn't a time from %s to %s", name, text, least, most)
			return otherwise
		}
		return d
	}
	t := HealthTarget{Type: h.Type, Path: h.Path, Failures: cmp.Or(h.Failures, healthFailures), Successes: cmp.Or(h.Successes, healthSuccesses)}
	t.Interval = duration("interval", h.Interval, minHealthInterval, maxHealthInterval, healthInterval)
	t.Timeout = duration("timeout", h.Timeout, minHealthTimeout, maxHealthInterval, min(healthTimeout, t.Interval/2))
	if most := MostTimeout(t.Failures, t.Interval); t.Timeout > most {
		f.wrong(s, path+".timeout", "",
			"timeout %s is too long: a backend that is dead is out within failures × interval, which is %s, if no probe takes longer than %s", t.Timeout, time.Duration(t.Failures)*t.Interval, most)
	}
	s.health = t
}

// MostTimeout is the longest time-out with which a backend that doesn't answer any more is out within failures × interval:
// it may have died right after a probe, and the failures that follow come one after the other.
func MostTimeout(failures int, interval time.Duration) time.Duration {
	if failures == 1 {
		return interval / 2
	}
	return (interval * time.Duration(failures-1) / time.Duration(failures)).Truncate(time.Millisecond)
}

// askedPort is the index of the first port that TCP can be asked at, -1 without one.
func (s *service) askedPort() int {
	return slices.IndexFunc(s.ports, func(p servicePort) bool { return p.Protocol == "TCP" })
}

// probeBackends adds the probes of one frontend: of its backends that are to get new clients. What is drained, or looked
// after by somebody, isn't probed. The backends of a UDP port are as well as those of the service's first TCP port are.
func (b *builder) probeBackends(s *service, p servicePort, frontend string, v6 bool) {
	if s.health.Type == "" {
		return
	}
	asked := p
	if p.Protocol != "TCP" && s.health.Type != typeICMP {
		asked = s.ports[s.askedPort()]
	}
	for i := range s.backends {
		d := &s.backends[i]
		addr := d.address(v6)
		if d.state != resource.Active || !addr.IsValid() {
			continue
		}
		t := s.health
		t.At = netip.AddrPortFrom(addr, uint16(cmp.Or(d.port, asked.TargetPort)))
		if t.Type == typeICMP {
			t.At = netip.AddrPortFrom(addr, 0)
		}
		i, ok := b.probes[t]
		if !ok {
			i = len(b.out.Health)
			b.probes[t] = i
			b.out.Health = append(b.out.Health, HealthProbe{HealthTarget: t})
		}
		b.out.Health[i].Backends = append(b.out.Health[i].Backends, HealthBackend{frontend, netip.AddrPortFrom(addr, uint16(cmp.Or(d.port, p.TargetPort)))})
	}
}

// sortHealth puts the probes in an order that doesn't depend on the services'.
func (b *builder) sortHealth() {
	slices.SortFunc(b.out.Health, func(x, y HealthProbe) int {
		return cmp.Or(x.At.Compare(y.At), cmp.Compare(x.Type, y.Type), cmp.Compare(x.Path, y.Path), cmp.Compare(x.Interval, y.Interval),
			cmp.Compare(x.Timeout, y.Timeout), cmp.Compare(x.Failures, y.Failures), cmp.Compare(x.Successes, y.Successes))
	})
	for _, p := range b.out.Health {
		slices.SortFunc(p.Backends, func(x, y HealthBackend) int {
			return cmp.Or(cmp.Compare(x.Frontend, y.Frontend), x.Backend.Compare(y.Backend))
		})
	}
}
