package cli

import (
	"slices"
	"testing"
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
