package health

import (
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/nft"
	"plumb.internal/plumb/reconciler/resource/service"
)

// front is a frontend with backends 10.0.0.1:8080 and on, by their weights and states.
func front(port uint16, backends ...resource.Backend) resource.Frontend {
	for i := range backends {
		b := &backends[i]
		b.Address, b.Port = netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)}), 8080
	}
	return resource.Frontend{Address: netip.MustParseAddr("10.96.0.1"), Port: port, Protocol: "TCP", Algorithm: resource.Random, Backends: backends}
}

func states(f resource.Frontend) (all []string) {
	for _, b := range f.Backends {
		all = append(all, b.State)
	}
	return all
}

func at(i byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, i}), 8080)
}

func TestOverlay(t *testing.T) {
	active, idle := resource.Backend{Weight: 1, State: resource.Active}, resource.Backend{Weight: 0, State: resource.Active}
	drained := resource.Backend{Weight: 1, State: resource.Terminating}
	for _, c := range []struct {
		name     string
		backends []resource.Backend
		down     []byte // numbers of backends
		want     []string
		all      bool
	}{
		{"one of two", []resource.Backend{active, active}, []byte{2}, []string{"active", "down"}, false},
		{"all of two", []resource.Backend{active, active}, []byte{1, 2}, []string{"active", "active"}, true},
		{"all but one that has no weight", []resource.Backend{active, idle}, []byte{1}, []string{"active", "active"}, true},
		{"only one that has no weight", []resource.Backend{active, idle}, []byte{2}, []string{"active", "down"}, false},
		{"all but one that is drained", []resource.Backend{active, drained}, []byte{1}, []string{"active", "terminating"}, true},
		{"nobody takes clients anyway", []resource.Backend{idle, drained}, []byte{1}, []string{"down", "terminating"}, false},
		{"drained ones stay drained", []resource.Backend{active, active, drained}, []byte{1, 3}, []string{"down", "active", "terminating"}, false},
		{"one that isn't there", []resource.Backend{active}, []byte{9}, []string{"active"}, false},
		{"the only one", []resource.Backend{active}, []byte{1}, []string{"active"}, true},
	} {
		f := front(80, slices.Clone(c.backends)...)
		other := front(81, slices.Clone(c.backends)...)
		v := Verdicts{Key{Frontend: other.Name(), Backend: at(1)}: {}, Key{Frontend: f.Name(), Backend: at(7)}: {Down: false}}
		for _, i := range c.down {
			v[Key{Frontend: f.Name(), Backend: at(i)}] = Verdict{Down: true}
		}
		s, o := service.Service{Frontend: f, From: "x"}, service.Service{Frontend: other}
		table := nft.Table{Frontends: []resource.Frontend{f, other}, Segments: []string{"plumb0"}}
		state := resource.State{s.ID(): s, o.ID(): o, table.ID(): table}
		before := maps.Clone(state)

		got := Overlay(state, v)
		if d := cmp.Diff(before, state, all); d != "" {
			t.Errorf("%s: the desired state itself was changed:\n%s", c.name, d)
		}
		if states(f)[0] != c.backends[0].State {
			t.Errorf("%s: the backends of the desired state were changed: %v", c.name, states(f))
		}
		gs, gt := got[s.ID()].(service.Service), got[table.ID()].(nft.Table)
		if d := cmp.Diff(c.want, states(gs.Frontend)); d != "" {
			t.Errorf("%s: in the maps:\n%s", c.name, d)
		}
		if d := cmp.Diff(c.want, states(gt.Frontends[0])); d != "" {
			t.Errorf("%s: in nftables:\n%s", c.name, d)
		}
		for i := range gs.Backends {
			gs.Backends[i].State, gt.Frontends[0].Backends[i].State = c.backends[i].State, c.backends[i].State
		}
		if d := cmp.Diff(state, got, all); d != "" {
			t.Errorf("%s: more than states of backends differs:\n%s", c.name, d)
		}
		if unanswered := Unanswered(state, v); len(unanswered) > 0 != c.all || c.all && !slices.Equal(unanswered, []string{f.Name()}) {
			t.Errorf("%s: unanswered %v", c.name, unanswered)
		}
	}
}

var all = cmp.Options{cmpopts.IgnoreUnexported(service.Service{}, nft.Table{}), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})}

// TestObserved takes what was observed for what was found before: laid over the desired state there is no difference.
func TestObserved(t *testing.T) {
	s := service.Service{Frontend: front(80, resource.Backend{Weight: 1, State: resource.Active}, resource.Backend{Weight: 1, State: resource.Down})}
	half := []resource.Backend{{Weight: 1, State: resource.Active}, {Weight: 1, State: resource.Down}}
	table := nft.Table{Frontends: []resource.Frontend{front(81, half...)}}
	left := service.Service{Leftover: "slot 7"}
	observed := resource.State{s.ID(): s, table.ID(): table, left.ID(): left}
	v := Observed(observed)
	want := Verdicts{{Frontend: s.Name(), Backend: at(2)}: {Down: true}, {Frontend: table.Frontends[0].Name(), Backend: at(2)}: {Down: true}}
	if d := cmp.Diff(want, v, all); d != "" {
		t.Error(d)
	}
	desired := maps.Clone(observed)
	up := s
	up.Backends = slices.Clone(s.Backends)
	up.Backends[1].State = resource.Active
	desired[s.ID()] = up
	if d := cmp.Diff(observed, Overlay(desired, v), all); d != "" {
		t.Error(d)
	}
	probes := []compiler.HealthProbe{{Backends: []Key{{Frontend: s.Name(), Backend: at(2)}, {Frontend: "x", Backend: at(2)}}}}
	if d := cmp.Diff(Verdicts{{Frontend: s.Name(), Backend: at(2)}: {Down: true}}, v.Of(probes), all); d != "" {
		t.Errorf("of those that are probed:\n%s", d)
	}
}

func TestFlips(t *testing.T) {
	a, b := Key{Frontend: "x", Backend: at(1)}, Key{Frontend: "y", Backend: at(1)}
	c, d := Key{Frontend: "x", Backend: at(2)}, Key{Frontend: "x", Backend: at(3)}
	up, down := Verdict{}, Verdict{Down: true}
	for _, test := range []struct {
		before, after Verdicts
		want          []Key
	}{
		{Verdicts{a: up, c: down}, Verdicts{a: up, c: down}, nil},
		{Verdicts{a: up, b: up, c: down}, Verdicts{a: down, b: down, c: up}, []Key{a, b, c}},
		{nil, Verdicts{a: up, d: down}, []Key{d}}, // known from before, by another daemon
		{Verdicts{a: down}, Verdicts{c: up}, nil}, // nobody asks any more
	} {
		if diff := cmp.Diff(test.want, Flips(test.before, test.after), all); diff != "" {
			t.Errorf("%v, then %v:\n%s", test.before, test.after, diff)
		}
	}
}
