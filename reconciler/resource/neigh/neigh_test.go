package neigh

import (
	"net/netip"
	"testing"

	"plumb.internal/plumb/reconciler/resource"
)

func TestConflicts(t *testing.T) {
	want := Neigh{NetNS: "web", Dev: "eth0", IP: netip.MustParseAddr("169.254.10.24"), MAC: "02:00:00:00:00:01"}
	proxy := Neigh{Dev: "eth0", IP: netip.MustParseAddr("fd00:10::a"), Proxy: true}
	desired := resource.State{}
	if err := desired.Add(want, proxy); err != nil {
		t.Fatal(err)
	}
	foreign := want
	foreign.MAC = "02:ff:00:00:00:01"
	got := (Ops{}).Conflicts(desired, []Neigh{foreign})
	if len(got) != 1 || got[0].ID != want.ID() ||
		got[0].Foreign != "neighbour 169.254.10.24 dev eth0 lladdr 02:ff:00:00:00:01 PERMANENT" ||
		got[0].Fix != "take it away (ip -n web neigh del 169.254.10.24 dev eth0)" {
		t.Errorf("conflicts: %+v", got)
	}
	proxy.Protocol = 3
	if got := (Ops{}).Conflicts(desired, []Neigh{proxy}); len(got) != 1 || got[0].Owner != "protocol boot" {
		t.Errorf("conflicts of a proxy entry: %+v", got)
	}
	foreign.Dev = "eth1"
	if got := (Ops{}).Conflicts(desired, []Neigh{foreign}); len(got) != 0 {
		t.Errorf("an entry on another device is no conflict: %+v", got)
	}
}

func TestDiff(t *testing.T) {
	a := Neigh{MAC: "02:00:00:00:00:0A"}
	b := Neigh{MAC: "02:00:00:00:00:0a"}
	if fields, _ := (Ops{}).Diff(a, b); len(fields) != 0 {
		t.Errorf("the case of a MAC differs: %v", fields)
	}
	b.MAC = "02:00:00:00:00:0b"
	if fields, inPlace := (Ops{}).Diff(a, b); len(fields) != 1 || !inPlace {
		t.Errorf("another MAC: %v, in place %v", fields, inPlace)
	}
}
