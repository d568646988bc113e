package reconciler

import (
	"net/netip"
	"slices"
	"testing"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpflink"
	"plumb.internal/plumb/reconciler/resource/bpfmap"
	"plumb.internal/plumb/reconciler/resource/service"
)

// A map of another size is made before the old one goes, and before a service goes that is in the old one: else the new one
// would have nothing to take over, or take over the service.
func TestHeir(t *testing.T) {
	old, new, other := bpfmap.Of("slots", 16, ""), bpfmap.Of("slots", 32, ""), bpfmap.Of("members", 16, "")
	in := func(address string, m bpfmap.Map) service.Service {
		f := resource.Frontend{Address: netip.MustParseAddr(address), Port: 80, Protocol: "TCP", Algorithm: resource.Random}
		return service.Service{Frontend: f, Maps: []resource.ID{m.ID()}}
	}
	gone, elsewhere := in("10.96.0.1", old), in("10.96.0.2", other)
	g := newGraph([]resource.Change{
		{ID: old.ID(), Action: resource.Delete, Before: old},
		{ID: gone.ID(), Action: resource.Delete, Before: gone},
		{ID: elsewhere.ID(), Action: resource.Delete, Before: elsewhere},
		{ID: other.ID(), Action: resource.Delete, Before: other},
		{ID: new.ID(), Action: resource.Create, After: new},
	})
	for id, want := range map[resource.ID]bool{old.ID(): true, gone.ID(): true, elsewhere.ID(): false, other.ID(): false} {
		if got := slices.Contains(g.steps[g.gone[id]].before, g.built[new.ID()]); got != want {
			t.Errorf("%s waits for the heir: %v, want %v", id, got, want)
		}
	}
}

// A program takes another one's place once its maps have all that they are to hold, though they were made before: by an apply
// that was killed. A new attachment, which nobody misses yet, waits for nothing.
func TestReaders(t *testing.T) {
	f := resource.Frontend{Address: netip.MustParseAddr("10.96.0.1"), Port: 80, Protocol: "TCP", Algorithm: resource.Random}
	wanted := service.Service{Frontend: f, Maps: []resource.ID{bpfmap.For("frontends", 2, 16)}}
	before := bpflink.Attachment{Hook: "connect4", Program: resource.ID{Kind: "bpfprog", Name: "connect4.1"}}
	after, fresh := before, before
	after.Program.Name, fresh.Hook = "connect4.2", "connect6"
	g := newGraph([]resource.Change{
		{ID: after.ID(), Action: resource.Update, Before: before, After: after},
		{ID: fresh.ID(), Action: resource.Create, After: fresh},
		{ID: wanted.ID(), Action: resource.Create, After: wanted},
	})
	order, circle := g.sorted()
	if circle != nil {
		t.Fatal(circle)
	}
	at := func(id resource.ID) int { return slices.Index(order, g.built[id]) }
	if at(after.ID()) < at(wanted.ID()) {
		t.Error("the program is exchanged before the service is there")
	}
	if at(fresh.ID()) > at(wanted.ID()) {
		t.Error("a new attachment waits for the service")
	}
}
