package compiler

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"plumb.internal/plumb/reconciler/resource"
)

// HealthProbe is how one backend is probed. Frontends that ask the same of the same backend share a probe.
type HealthProbe struct {
	HealthTarget
	// Frontends are the names of the frontends that the backend answers for, as resource.Frontend has them, in order.
	Frontends []string
}

// HealthTarget is what tells probes apart.
type HealthTarget struct {
	Backend  netip.AddrPort
	Type     string // tcp, http or icmp
	Path     string // of http
	Interval time.Duration
	Timeout  time.Duration
	// Failures one after the other take the backend out, Successes bring it back.
	Failures, Successes int
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
	if h.Path != "" && h.Type != "http" {
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
		f.wrong(s, path+".timeout", "", "%d failures every %s are told within %s only if none takes longer than %s; set timeout to that, or a longer interval",
			t.Failures, t.Interval, time.Duration(t.Failures)*t.Interval, most)
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

// probeBackends adds the probes of one frontend: of its backends that are to get new clients. What is drained, or looked
// after by somebody, isn't probed.
func (b *builder) probeBackends(s *service, f resource.Frontend) {
	if s.health.Type == "" {
		return
	}
	for _, d := range f.Backends {
		if d.State != resource.Active {
			continue
		}
		t := s.health
		t.Backend = d.At()
		i, ok := b.probes[t]
		if !ok {
			i = len(b.out.Health)
			b.probes[t] = i
			b.out.Health = append(b.out.Health, HealthProbe{HealthTarget: t})
		}
		b.out.Health[i].Frontends = append(b.out.Health[i].Frontends, f.Name())
	}
}

// sortHealth puts the probes in an order that doesn't depend on the services'.
func (b *builder) sortHealth() {
	slices.SortFunc(b.out.Health, func(x, y HealthProbe) int {
		return cmp.Or(x.Backend.Compare(y.Backend), cmp.Compare(x.Type, y.Type), cmp.Compare(x.Path, y.Path), cmp.Compare(x.Interval, y.Interval),
			cmp.Compare(x.Timeout, y.Timeout), cmp.Compare(x.Failures, y.Failures), cmp.Compare(x.Successes, y.Successes))
	})
	for _, p := range b.out.Health {
		slices.Sort(p.Frontends)
	}
}
