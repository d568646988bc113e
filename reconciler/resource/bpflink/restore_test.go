package bpflink

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// object stands for what is of another kind.
type object struct {
	id   resource.ID
	made []resource.Device
}

func (o object) ID() resource.ID              { return o.id }
func (o object) After() []resource.ID         { return nil }
func (o object) DiesWith() []resource.ID      { return nil }
func (o object) Requires() []features.Feature { return nil }
func (o object) Origin() string               { return "" }
func (o object) Devices() []resource.Device   { return o.made }

// TestRestoredKnows finds out which pod's packets a program sees that drops those of nobody, also on the second pair of a pod.
func TestRestoredKnows(t *testing.T) {
	pod := func(name string) resource.ID { return resource.ID{Kind: "endpoint", NetNS: name, Name: "pod"} }
	s := resource.State{}
	for _, o := range []object{
		{id: pod("web")}, {id: pod("db")},
		{resource.ID{Kind: "link", NetNS: "web", Name: "detour"}, []resource.Device{{NetNS: "web", Name: "detour"}, {Name: "pl-detour"}}},
		{resource.ID{Kind: "link", NetNS: "bare", Name: "eth0"}, []resource.Device{{NetNS: "bare", Name: "eth0"}, {Name: "pl-bare"}}},
		{id: resource.ID{Kind: "link", Name: "bridge"}, made: []resource.Device{{Name: "bridge"}}},
	} {
		s[o.id] = o
	}
	for dev, want := range map[string][]resource.ID{"pl-detour": {pod("web")}, "pl-bare": nil, "bridge": nil, "eth0": nil} {
		a := Attachment{Dev: dev, Hook: Ingress, Way: TCX}
		got := a.Restored(resource.NewFound(s)).(Attachment).Knows
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", dev, d)
		}
	}
}
