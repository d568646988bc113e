package reconciler

import (
	"strings"
	"testing"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/reconciler/resource/sysctl"
)

// TestSkip: what is skipped is left alone with what waits for it, without an error, and the rest is made. Conflicts of it
// stop nothing.
func TestSkip(t *testing.T) {
	k := newFake()
	want := state(fakePod{name: "a", attach: "veth", ip: 10, mtu: 1500}, fakePod{name: "b", attach: "veth", ip: 11, mtu: 1500})
	p, err := k.table().diff(want, &Observed{Owned: resource.State{}})
	if err != nil {
		t.Fatal(err)
	}
	left := resource.ID{Kind: link.Kind, NetNS: "a", Name: "eth0"}
	if want[left] == nil {
		t.Fatalf("there is no %s", left)
	}
	p.Conflicts = []resource.Conflict{{ID: left}}
	if err := k.table().apply(t.Context(), &host.Host{}, p, ApplyOptions{}); err == nil {
		t.Fatal("a conflict is no error")
	}
	skip := map[resource.ID]bool{left: true}
	made := 0
	opt := ApplyOptions{Skip: skip, Progress: func(int, int, resource.Change) { made++ }}
	if err := k.table().apply(t.Context(), &host.Host{}, p, opt); err != nil {
		t.Fatal(err)
	}
	if made == 0 || k.objects[left] != nil {
		t.Errorf("%d changes made, skipped object %v", made, k.objects[left])
	}
	for id := range want {
		there := k.objects[id] != nil
		if id.NetNS == "b" && !there {
			t.Errorf("%s wasn't made", id)
		}
		if id.NetNS == "a" && there && id.Kind != sysctl.Kind { // which stands on the namespace
			t.Errorf("%s was made without its link", id)
		}
	}
	for _, c := range k.calls {
		if strings.HasSuffix(c, left.String()) {
			t.Errorf("%s was called", c)
		}
	}
}
