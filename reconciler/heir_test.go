package reconciler

import (
	"net/netip"
	"slices"
	"testing"

	"plumb.internal/plumb/reconciler/resource"
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
