package link_test

import (
	"testing"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/link"
)

// What the files ask for in another way cuts a pod; what somebody changed by hand is put right without being allowed to.
func TestDisruption(t *testing.T) {
	pair := func(change func(*link.Link)) link.Link {
		l := link.Link{NetNS: "web", Name: "eth0", Type: link.Veth, MTU: 1500, MAC: "02:00:00:00:00:01",
			Peer: &link.Peer{Name: "pl-web", MAC: "02:00:00:00:00:02", MTU: 1500}}
		change(&l)
		return l
	}
	child := func(change func(*link.Link)) link.Link {
		l := link.Link{NetNS: "web", Name: "eth0", Type: link.IPvlan, Mode: "l2", Parent: "eth0"}
		change(&l)
		return l
	}
	as := func(*link.Link) {}
	macvlan := func(l *link.Link) { l.Type, l.Mode = link.Macvlan, "bridge" }
	for _, c := range []struct {
		name       string
		from, to   link.Link
		disruption resource.Disruption
	}{
		{"another address", pair(func(l *link.Link) { l.MAC = "02:00:00:00:00:09" }), pair(as), resource.DisruptsNothing},
		{"another name of the peer", pair(func(l *link.Link) { l.Peer.Name = "x0" }), pair(as), resource.DisruptsNothing},
		{"another mode of a macvlan", child(func(l *link.Link) { l.Type, l.Mode = link.Macvlan, "private" }), child(macvlan), resource.DisruptsNothing},
		{"another type", child(macvlan), pair(as), resource.DisruptsPod},
		{"another mode", child(as), child(func(l *link.Link) { l.Mode = "l3" }), resource.DisruptsPod},
		{"another parent", child(as), child(func(l *link.Link) { l.Parent = "eth1" }), resource.DisruptsPod},
		{"the same, for the sake of another object", pair(as), pair(as), resource.DisruptsPod},
		{"the same, with a smaller fault", pair(func(l *link.Link) { l.Faults = "down" }), pair(as), resource.DisruptsPod},
	} {
		if got := c.to.Disruption(resource.Replace, c.from); got != c.disruption {
			t.Errorf("%s: %q, want %q", c.name, got, c.disruption)
		}
	}
}
