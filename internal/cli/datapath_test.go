package cli

import (
	"slices"
	"testing"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpflink"
	"plumb.internal/plumb/reconciler/resource/bpfprog"
)

// How far the source check goes follows from the hooks that a checking program is on.
func TestSourceCheck(t *testing.T) {
	for _, c := range []struct {
		attach string
		hooks  []string
		want   string
	}{
		{"veth", nil, checkOff},
		{"veth", []string{"dev ingress"}, checkEnforced},
		{"veth", []string{"dev egress", "other ingress"}, checkOff},
		{"netkit", []string{"dev ingress"}, checkEnforced},
		{"bridge", []string{"dev ingress"}, checkEnforced},
		{"macvlan", []string{"dev ingress", "dev egress"}, checkEnforced},
		{"macvlan", []string{"dev egress"}, checkLeaving},
		{"macvlan", []string{"dev ingress"}, checkOff},
		{"ipvlan-l2", []string{"dev ingress", "dev egress"}, checkLeaving},
		{"ipvlan-l3", []string{"dev egress"}, checkLeaving},
		{"ipvlan-l3", nil, checkOff},
	} {
		d := datapath{checks: map[string]bool{}}
		for _, h := range c.hooks {
			d.checks[h] = true
		}
		if got := d.sourceCheck(c.attach, "dev"); got != c.want {
			t.Errorf("%s with programs on %v: %s, want %s", c.attach, c.hooks, got, c.want)
		}
	}
}

// The protocols are those of the hooks that have a program.
func TestProtocols(t *testing.T) {
	for _, c := range []struct{ hooks, protocols, families []string }{
		{nil, []string{}, []string{}},
		{[]string{"connect4", "sendmsg4"}, []string{"TCP", "UDP"}, []string{"IPv4"}},
		{[]string{"connect4", "connect6"}, []string{"TCP"}, []string{"IPv4", "IPv6"}},
	} {
		protocols, families := datapath{hooks: c.hooks}.protocols()
		if !slices.Equal(protocols, c.protocols) || !slices.Equal(families, c.families) {
			t.Errorf("%v: %v, %v", c.hooks, protocols, families)
		}
	}
}

// What is attached counts: a program's maps and its settings tell what it does. One that is detached does nothing.
func TestDatapathOf(t *testing.T) {
	program := func(object, base string, check uint32) bpfprog.Program {
		var settings map[string]uint32
		if object != "socket" {
			settings = map[string]uint32{"redirect": 1, "source_check": check}
		}
		var maps []resource.ID
		for _, base := range bpf.Uses(object, base) {
			maps = append(maps, resource.ID{Kind: "bpfmap", Name: bpf.MapName(base, 1, 16)})
		}
		p := bpfprog.Of(object, base, settings, maps, "")
		// As it is observed.
		return bpfprog.Program{Observed: p.ID().Name, Base: p.Base, Settings: settings, Maps: p.Maps}
	}
	socket, services := program("socket", "connect4", 0), program("packet", "from_pod", 1)
	drains := program("packet", "from_pod", 1)
	drains.Observed, drains.Settings = "from_pod.drain+source_check.0123456789ab", map[string]uint32{"source_check": 1, "drain": 1}
	plain, lax := program("forward", "from_pod", 1), program("forward", "from_pod", 0)
	on := func(p bpfprog.Program, dev, hook, fault string) bpflink.Attachment {
		return bpflink.Attachment{Dev: dev, Hook: hook, Program: p.ID(), Fault: fault}
	}
	for _, c := range []struct {
		name     string
		attached bpflink.Attachment
		way      string
		check    string
	}{
		{"socket", on(socket, "", "connect4", ""), "socket", checkOff},
		{"packet", on(services, "pl-web", "ingress", ""), "packet", checkEnforced},
		{"draining", on(drains, "pl-web", "ingress", ""), "none", checkEnforced},
		{"forward", on(plain, "pl-web", "ingress", ""), "none", checkEnforced},
		{"without the check", on(lax, "pl-web", "ingress", ""), "none", checkOff},
		{"detached", on(services, "pl-web", "ingress", "detached"), "none", checkOff},
		{"unknown", bpflink.Attachment{Dev: "pl-web", Hook: "ingress"}, "none", checkOff},
	} {
		owned := resource.State{}
		if err := owned.Add(socket, services, drains, plain, lax, c.attached); err != nil {
			t.Fatal(err)
		}
		d := datapathOf(owned)
		if d.way() != c.way || d.sourceCheck("veth", "pl-web") != c.check {
			t.Errorf("%s: way %s, source check %s", c.name, d.way(), d.sourceCheck("veth", "pl-web"))
		}
	}
}
