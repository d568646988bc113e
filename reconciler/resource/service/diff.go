package service

import (
	"fmt"
	"strconv"
	"time"

	"plumb.internal/plumb/reconciler/resource"
)

// Ops implements reconciler.Ops for services.
type Ops struct{}

// Diff lists what differs. Everything can be changed while the service is in use.
func (Ops) Diff(observed, desired Service) (fields []resource.Field, inPlace bool) {
	add := func(name, before, after string) {
		fields = append(fields, resource.Field{Name: name, Before: before, After: after})
	}
	if observed.Broken != "" {
		add("entries", observed.Broken, "complete")
	}
	if observed.Algorithm != desired.Algorithm {
		add("algorithm", observed.Algorithm, desired.Algorithm)
	}
	if observed.TableSize != desired.TableSize {
		add("tableSize", size(observed.TableSize), size(desired.TableSize))
	}
	if observed.Affinity != desired.Affinity {
		add("affinity", timeout(observed.Affinity), timeout(desired.Affinity))
	}
	eachBackend(observed.Backends, desired.Backends, func(a, b *resource.Backend) {
		switch {
		case a == nil:
			add("backend "+b.At().String(), "", standing(*b))
		case b == nil:
			add("backend "+a.At().String(), standing(*a), "")
		default:
			if a.Weight != b.Weight {
				add("backend "+b.At().String()+" weight", strconv.Itoa(a.Weight), strconv.Itoa(b.Weight))
			}
			if a.State != b.State {
				add("backend "+b.At().String()+" state", a.State, b.State)
			}
		}
	})
	return fields, true
}

// eachBackend calls f for every backend that either list has, with nil for the list that lacks it. Both are in order.
func eachBackend(as, bs []resource.Backend, f func(a, b *resource.Backend)) {
	for len(as) > 0 || len(bs) > 0 {
		c := 0
		switch {
		case len(as) == 0:
			c = 1
		case len(bs) == 0:
			c = -1
		default:
			c = as[0].Compare(bs[0])
		}
		switch {
		case c < 0:
			f(&as[0], nil)
			as = as[1:]
		case c > 0:
			f(nil, &bs[0])
			bs = bs[1:]
		default:
			f(&as[0], &bs[0])
			as, bs = as[1:], bs[1:]
		}
	}
}

// standing is a backend's weight and, where it isn't active, its state.
func standing(b resource.Backend) string {
	s := "weight " + strconv.Itoa(b.Weight)
	if b.State != resource.Active {
		s += " " + b.State
	}
	return s
}

func size(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

func timeout(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}

// Disruption implements resource.Disrupter: what only adds is noticed by nobody; anything else only by new flows, but for
// packets that nobody translates any more.
func (s Service) Disruption(action resource.Action, from resource.Resource) resource.Disruption {
	switch action {
	case resource.Create:
		return resource.DisruptsNothing
	case resource.Update:
		old, ok := from.(Service)
		if ok && s.onlyAdds(old) {
			return resource.DisruptsNothing
		}
	}
	switch {
	case s.Leftover != "":
		return resource.DisruptsNothing
	case s.busy && action == resource.Delete:
		return resource.DisruptsPod
	}
	return resource.DisruptsNewFlows
}

// onlyAdds reports whether old becomes s by new backends alone, or by having its entries mended.
func (s Service) onlyAdds(old Service) bool {
	if s.Algorithm != old.Algorithm || s.TableSize != old.TableSize || s.Affinity != old.Affinity {
		return false
	}
	adds := true
	eachBackend(old.Backends, s.Backends, func(a, b *resource.Backend) {
		adds = adds && b != nil && (a == nil || *a == *b)
	})
	return adds
}

// Describe implements resource.Describer: "10.96.0.100:80/TCP maglev 4093, 3 backends".
func (s Service) Describe() string {
	if s.Leftover != "" {
		return s.Leftover
	}
	d := s.Name() + " " + s.Algorithm
	if s.TableSize > 0 {
		d += " " + strconv.Itoa(s.TableSize)
	}
	if s.Affinity > 0 {
		d += " affinity " + s.Affinity.String()
	}
	switch n := len(s.Backends); n {
	case 0:
		return d + ", no backend"
	case 1:
		return d + " to " + s.Backends[0].At().String()
	default:
		return fmt.Sprintf("%s, %d backends", d, n)
	}
}
