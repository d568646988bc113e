package service

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/reconciler/resource"
)

func TestDiff(t *testing.T) {
	a, b := backend("10.0.0.10:8080", 1, resource.Active), backend("10.0.0.11:8080", 1, resource.Active)
	heavy, leaving := backend("10.0.0.10:8080", 2, resource.Active), backend("10.0.0.11:8080", 1, resource.Terminating)
	at := func(algorithm string, bs ...resource.Backend) Service {
		return frontend("10.96.0.100:80", "TCP", algorithm, bs...)
	}
	broken := at(resource.Random, a)
	broken.Broken = "slots are wrong"
	for name, c := range map[string]struct {
		from, to   Service
		want       []string
		disruption resource.Disruption
	}{
		"nothing":   {at(resource.Random, a, b), at(resource.Random, a, b), nil, resource.DisruptsNothing},
		"weight":    {at(resource.Random, a, b), at(resource.Random, heavy, b), []string{"backend 10.0.0.10:8080 weight: 1 -> 2"}, resource.DisruptsNewFlows},
		"drain":     {at(resource.Random, a, b), at(resource.Random, a, leaving), []string{"backend 10.0.0.11:8080 state: active -> terminating"}, resource.DisruptsNewFlows},
		"addition":  {at(resource.Random, b), at(resource.Random, heavy, b), []string{"backend 10.0.0.10:8080:  -> weight 2"}, resource.DisruptsNothing},
		"removal":   {at(resource.Random, a, leaving), at(resource.Random, a), []string{"backend 10.0.0.11:8080: weight 1 terminating -> "}, resource.DisruptsNewFlows},
		"algorithm": {at(resource.Random, a), at(resource.Maglev, a), []string{"algorithm: random -> maglev", "tableSize:  -> 2039"}, resource.DisruptsNewFlows},
		"class":     {at(resource.Maglev, a), at(resource.Maglev, a).table(4093), []string{"tableSize: 2039 -> 4093"}, resource.DisruptsNewFlows},
		"affinity":  {at(resource.Random, a), at(resource.Random, a).sticky(3 * time.Hour), []string{"affinity:  -> 3h0m0s"}, resource.DisruptsNewFlows},
		"mended":    {broken, at(resource.Random, a), []string{"entries: slots are wrong -> complete"}, resource.DisruptsNothing},
	} {
		t.Run(name, func(t *testing.T) {
			fields, inPlace := Ops{}.Diff(c.from, c.to)
			var got []string
			for _, f := range fields {
				got = append(got, fmt.Sprintf("%s: %s -> %s", f.Name, f.Before, f.After))
			}
			if d := cmp.Diff(c.want, got); d != "" || !inPlace {
				t.Errorf("in place %v, -want +got:\n%s", inPlace, d)
			}
			if got := c.to.Disruption(resource.Update, c.from); got != c.disruption {
				t.Errorf("disrupts %s, want %s", got, c.disruption)
			}
			if got := c.to.Disruption(resource.Create, nil); got != resource.DisruptsNothing {
				t.Errorf("its creation disrupts %s", got)
			}
			if got := c.to.Disruption(resource.Delete, c.to); got != resource.DisruptsNewFlows {
				t.Errorf("its removal disrupts %s", got)
			}
		})
	}
}

func TestDescribe(t *testing.T) {
	a, b := backend("10.0.0.10:8080", 1, resource.Active), backend("10.0.0.11:8080", 1, resource.Active)
	for want, s := range map[string]Service{
		"service 10.96.0.100:80/TCP random to 10.0.0.10:8080":              frontend("10.96.0.100:80", "TCP", resource.Random, a),
		"service [fd00:96::64]:80/UDP round-robin, no backend":             frontend("[fd00:96::64]:80", "UDP", resource.RoundRobin),
		"service 10.96.0.100:80/TCP maglev 4093 affinity 1m0s, 2 backends": frontend("10.96.0.100:80", "TCP", resource.Maglev, a, b).table(4093).sticky(time.Minute),
		"service 0000000000000001 without a frontend":                      {Leftover: "0000000000000001 without a frontend"},
	} {
		if got := resource.Describe(s); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// What is written is read back the same, also where weights are scaled down.
func TestEncode(t *testing.T) {
	many := make([]resource.Backend, 2000)
	for i := range many {
		many[i] = backend(fmt.Sprintf("10.0.%d.%d:80", i/250, i%250), 1+i%7, resource.Active)
	}
	for name, c := range map[string]struct {
		s        Service
		pickable uint32
		slots    int
	}{
		"none":       {frontend("10.96.0.1:80", "TCP", resource.Random), 0, 0},
		"weights":    {frontend("10.96.0.1:80", "TCP", resource.Random, backend("10.0.0.1:80", 20, resource.Active), backend("10.0.0.2:80", 60, resource.Active), backend("10.0.0.3:80", 60, resource.Maintenance)), 4, 5},
		"Maglev":     {frontend("10.96.0.1:80", "UDP", resource.Maglev, backend("10.0.0.1:80", 20, resource.Active), backend("10.0.0.2:80", 0, resource.Active)), 1, 2},
		"heavy":      {frontend("10.96.0.1:80", "TCP", resource.RoundRobin, backend("10.0.0.1:80", 65535, resource.Active), backend("10.0.0.2:80", 1, resource.Active)), 1024, 1024},
		"many":       {frontend("10.96.0.1:80", "TCP", resource.Random, many...).sticky(time.Hour), 2000, 2000},
		"many alike": {frontend("10.96.0.1:80", "TCP", resource.Random, alike(many)...), 2000, 2000},
	} {
		t.Run(name, func(t *testing.T) {
			e := encode(c.s.Frontend)
			e.table = true
			if e.frontend.Slots != c.pickable || len(e.slots) != c.slots {
				t.Errorf("%d of %d slots, want %d of %d", e.frontend.Slots, len(e.slots), c.pickable, c.slots)
			}
			if slots, members := Room(c.s.Frontend); slots != len(e.slots) || members != len(e.members) {
				t.Errorf("room for %d slots and %d members, want %d and %d", slots, members, len(e.slots), len(e.members))
			}
			f, broken := e.decode()
			if broken != "" {
				t.Error(broken)
			}
			if fields, _ := (Ops{}).Diff(Service{Frontend: f}, c.s); len(fields) > 0 {
				t.Errorf("read back differs: %v", fields)
			}
		})
	}
}

func alike(bs []resource.Backend) (all []resource.Backend) {
	for _, b := range bs {
		b.Weight = 3
		all = append(all, b)
	}
	return all
}
