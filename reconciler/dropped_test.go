package reconciler

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"testing"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpfmap"
	"plumb.internal/plumb/reconciler/resource/endpoint"
	"plumb.internal/plumb/reconciler/resource/nft"
	"plumb.internal/plumb/reconciler/resource/service"
)

// carriers are kinds by which services are carried, of which one has connections under way.
func carriers(k *fakeKernel) table {
	t := k.table()
	t[bpfmap.Kind] = of(fakeOps[bpfmap.Map]{k, bpfmap.Kind})
	t[endpoint.Kind] = of(fakeOps[endpoint.Endpoint]{k, endpoint.Kind})
	t[service.Kind] = of(fakeOps[service.Service]{k, service.Kind})
	t[nft.Kind] = of(fakeTable{fakeOps[nft.Table]{k, nft.Kind}})
	t["busy"] = of(fakeOps[busy]{k, "busy"})
	return t
}

// fakeTable differs as the real one does.
type fakeTable struct{ fakeOps[nft.Table] }

func (fakeTable) Diff(observed, desired nft.Table) ([]resource.Field, bool) {
	return nft.Ops{}.Diff(observed, desired)
}

// busy carries connections.
type busy struct{ resource.Frontend }

func (b busy) ID() resource.ID            { return resource.ID{Kind: "busy", Name: b.Name()} }
func (busy) After() []resource.ID         { return nil }
func (busy) DiesWith() []resource.ID      { return nil }
func (busy) Requires() []features.Feature { return nil }
func (busy) Origin() string               { return "" }
func (b busy) Carries() iter.Seq[resource.FrontendKey] {
	return slices.Values([]resource.FrontendKey{b.Key()})
}
func (busy) Disruption(resource.Action, resource.Resource) resource.Disruption {
	return resource.DisruptsPod
}

func frontendsOf(n int) (fs []resource.Frontend) {
	for i := range n {
		fs = append(fs, resource.Frontend{Address: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), Port: 80, Protocol: "TCP"})
	}
	return fs
}

// What ends with a table, or with a change of it, is said whatever the table is for.
func TestEndingConnections(t *testing.T) {
	for action, want := range map[resource.Action]string{
		resource.Delete: "no longer needed, and established connections end",
		resource.Update: "drift or change: masqueraded, and established connections end",
	} {
		c := resource.Change{Action: action, Before: nft.Table{}, Reason: unnamed, Disruption: resource.DisruptsPod}
		if action == resource.Update {
			c.Reason = "drift or change: masqueraded"
		}
		if explain(&c); c.Reason != want {
			t.Errorf("%s: %s, want %s", action, c.Reason, want)
		}
		c.Disruption, c.Reason = resource.DisruptsNewFlows, unnamed
		if explain(&c); c.Reason == want {
			t.Errorf("%s of an idle table: %s", action, c.Reason)
		}
	}
}

// Services that change the way that they are carried are still named: what they were carried by doesn't count as
// deleted, and connections that end need --allow-disruption. What the files no longer name counts in every way.
func TestWayOfServices(t *testing.T) {
	inMaps := func(n int) resource.State {
		s := state(fakePod{name: "web", attach: "veth", ip: 10})
		for i := range 20 {
			m := bpfmap.Of("frontends", i+1, "")
			s[m.ID()] = m
		}
		e := endpoint.Endpoint{NetNS: "web"}
		s[e.ID()] = e
		for _, f := range frontendsOf(n) {
			r := service.Service{Frontend: f}
			s[r.ID()] = r
		}
		return s
	}
	inTable := func(n int) resource.State {
		s, r := state(fakePod{name: "web", attach: "veth", ip: 10}), nft.Table{Frontends: frontendsOf(n)}
		s[r.ID()] = r
		return s
	}
	used := func(n int) resource.State {
		s := inMaps(n)
		for _, f := range frontendsOf(n) {
			delete(s, service.For(f))
			s[busy{f}.ID()] = busy{f}
		}
		return s
	}
	for _, c := range []struct {
		name     string
		from, to resource.State
		want     error
		gone     int
	}{
		{"maps to table", inMaps(40), inTable(40), nil, 0},
		{"table to maps", inTable(40), inMaps(40), nil, 0},
		{"connections end", used(40), inTable(40), &DisruptionError{}, 0},
		{"other connections", used(2), inTable(0), nil, 2},
		{"most of the maps dropped", inMaps(100), inMaps(10), &DeletionError{}, 90},
		{"most of the table dropped", inTable(100), inTable(10), &DeletionError{}, 90},
		{"most dropped on the way", inMaps(100), inTable(10), &DeletionError{}, 90},
		{"most dropped on the way back", inTable(100), inMaps(10), &DeletionError{}, 90},
		{"a few dropped", inTable(100), inMaps(95), nil, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newFake()
			o := &Observed{Owned: c.from}
			p, err := carriers(k).diff(c.to, o)
			if err != nil {
				t.Fatal(err)
			}
			gone := 0
			for _, ch := range p.Changes {
				gone += ch.Dropped
			}
			err = Refuse(p, o, Allowed{})
			if gone != c.gone || fmt.Sprintf("%T", err) != fmt.Sprintf("%T", c.want) {
				t.Errorf("%d dropped, want %d; refused by %v, want %T", gone, c.gone, err, c.want)
			}
			if cuts := new(DisruptionError); errors.As(err, &cuts) && (len(cuts.Changes) != 40 ||
				cuts.Changes[0].Reason != "services are carried another way, and established connections end") {
				t.Errorf("cuts %+v", cuts.Changes[0])
			}
			for _, ch := range p.Changes {
				if ch.ID.Kind == bpfmap.Kind && ch.Action == resource.Delete && ch.Reason != "no longer needed" {
					t.Errorf("%s goes because %s", ch.ID, ch.Reason)
				}
			}
		})
	}
}
