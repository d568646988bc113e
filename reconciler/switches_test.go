package reconciler

import (
	"slices"
	"testing"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpflink"
	"plumb.internal/plumb/reconciler/resource/bpfmap"
	"plumb.internal/plumb/reconciler/resource/uplink"
)

// A way past the stack opens when the programs of both its directions are there, and is closed before any of them goes or is
// exchanged; another MTU waits for nobody.
func TestSwitches(t *testing.T) {
	in := bpfmap.Of("uplinks", 64, "")
	up := uplink.Uplink{Dev: "eth0", MTU: 1500, Maps: []resource.ID{in.ID()}}
	program := func(dev, name string) bpflink.Attachment {
		return bpflink.Attachment{Dev: dev, Hook: bpflink.Ingress, Program: resource.ID{Kind: "bpfprog", Name: name}}
	}
	plain, straight := program("pl-web", "from_pod.1"), program("pl-web", "from_pod.2")
	arrivals, gone := program("eth0", "uplink_ingress.1"), program("pl-old", "from_pod.1")
	order := func(changes ...resource.Change) func(resource.Resource) int {
		t.Helper()
		g := newGraph(changes)
		steps, circle := g.sorted()
		if circle != nil {
			t.Fatal(g.circleError(circle))
		}
		return func(r resource.Resource) int {
			if s, ok := g.built[r.ID()]; ok {
				return slices.Index(steps, s)
			}
			return slices.Index(steps, g.gone[r.ID()])
		}
	}
	remove := resource.Change{ID: gone.ID(), Action: resource.Delete, Before: gone}

	at := order(
		resource.Change{ID: up.ID(), Action: resource.Create, After: up},
		resource.Change{ID: in.ID(), Action: resource.Create, After: in},
		resource.Change{ID: straight.ID(), Action: resource.Update, Before: plain, After: straight},
		resource.Change{ID: arrivals.ID(), Action: resource.Create, After: arrivals}, remove)
	if at(up) < at(straight) || at(up) < at(arrivals) {
		t.Errorf("opened at step %d, before the programs, %d and %d", at(up), at(straight), at(arrivals))
	}

	at = order(
		resource.Change{ID: plain.ID(), Action: resource.Update, Before: straight, After: plain},
		resource.Change{ID: arrivals.ID(), Action: resource.Delete, Before: arrivals}, remove,
		resource.Change{ID: in.ID(), Action: resource.Delete, Before: in},
		resource.Change{ID: up.ID(), Action: resource.Delete, Before: up})
	if at(up) > at(plain) || at(up) > at(arrivals) || at(up) > at(gone) {
		t.Errorf("closed at step %d, after the programs, %d, %d and %d", at(up), at(plain), at(arrivals), at(gone))
	}

	wider, other := up, up
	wider.MTU, other.Dev = 9000, "eth1"
	at = order(
		resource.Change{ID: other.ID(), Action: resource.Delete, Before: other},
		resource.Change{ID: up.ID(), Action: resource.Update, Before: up, After: wider},
		resource.Change{ID: straight.ID(), Action: resource.Update, Before: plain, After: straight},
		resource.Change{ID: arrivals.ID(), Action: resource.Create, After: arrivals})
	if at(other) > at(straight) || at(other) > at(arrivals) {
		t.Error("one of two is closed too late")
	}
}
