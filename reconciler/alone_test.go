package reconciler

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/service"
	"plumb.internal/plumb/reconciler/resource/sysctl"
)

// TestAlone takes services one by one, and nothing else.
func TestAlone(t *testing.T) {
	front := func(i, weight int) service.Service {
		at := netip.AddrFrom4([4]byte{10, 96, 0, byte(i)})
		return service.Service{Frontend: resource.Frontend{Address: at, Port: 80, Protocol: "TCP", Backends: []resource.Backend{{Address: at.Next(), Port: 80, Weight: weight}}}}
	}
	base := resource.State{}
	for _, r := range []resource.Resource{front(1, 1), front(2, 1), front(3, 1), sysctl.Sysctl{Key: "net.a", Value: "1"}} {
		base[r.ID()] = r
	}
	with := func(gone []resource.Resource, rs ...resource.Resource) resource.State {
		s := maps.Clone(base)
		for _, r := range gone {
			delete(s, r.ID())
		}
		for _, r := range rs {
			s[r.ID()] = r
		}
		return s
	}
	other := front(1, 2)
	from := front(1, 1)
	from.From = "elsewhere" // which is no change of the kernel
	old := sysctl.Sysctl{Key: "net.a", Value: "1"}
	for name, c := range map[string]struct {
		is            resource.State
		before, after string
		no            bool
	}{
		"the same":           {is: with(nil)},
		"told differently":   {is: with(nil, from)},
		"one changed":        {is: with(nil, other), before: "[service " + other.Name() + "]", after: "[service " + other.Name() + "]"},
		"one new":            {is: with(nil, front(4, 1)), after: "[service " + front(4, 1).Name() + "]"},
		"one gone":           {is: with([]resource.Resource{front(3, 1)}), before: "[service " + front(3, 1).Name() + "]"},
		"all that may be":    {is: with([]resource.Resource{front(3, 1)}, other), before: fmt.Sprintf("[service %s service %s]", other.Name(), front(3, 1).Name()), after: "[service " + other.Name() + "]"},
		"too many":           {is: with([]resource.Resource{front(2, 1), front(3, 1)}, other), no: true},
		"too many new":       {is: with(nil, front(4, 1), front(5, 1), front(6, 1)), no: true},
		"a setting":          {is: with(nil, other, sysctl.Sysctl{Key: "net.a", Value: "2"}), no: true},
		"a setting's origin": {is: with(nil, sysctl.Sysctl{Key: "net.a", Value: "1", From: "elsewhere"}), no: true},
		"a new setting":      {is: with(nil, sysctl.Sysctl{Key: "net.b", Value: "2"}), no: true},
		"a setting less":     {is: with([]resource.Resource{old}), no: true},
	} {
		before, after, ok := Alone(base, c.is, 2)
		if ok == c.no {
			t.Errorf("%s: %v", name, ok)
			continue
		}
		if c.no {
			continue
		}
		ids := func(s resource.State) string {
			var all []string
			for _, id := range slices.SortedFunc(maps.Keys(s), resource.ID.Compare) {
				all = append(all, id.String())
			}
			return fmt.Sprint(all)
		}
		want := []string{c.before, c.after}
		for i := range want {
			if want[i] == "" {
				want[i] = "[]"
			}
		}
		if d := cmp.Diff(want, []string{ids(before), ids(after)}); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
}
