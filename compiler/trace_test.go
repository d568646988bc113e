package compiler

import (
	"slices"
	"testing"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpflink"
	"plumb.internal/plumb/reconciler/resource/exclusion"
	"plumb.internal/plumb/reconciler/resource/uplink"
)

// What leads packets past the stack, or gives them another address, isn't at work where it isn't attached.
func TestTracePast(t *testing.T) {
	cfg := served("socket", "veth")
	n := cfg.Nodes["n"]
	n.Addresses = []string{"192.0.2.1"}
	cfg.Nodes["n"] = n
	cfg.Routing.HostRouting, cfg.Routing.Masquerade = "bpf", "bpf"
	c, err := Compile(cfg, "n", acceptAll())
	if err != nil {
		t.Fatal(err)
	}
	hook := bpflink.Attachment{Dev: "eth0", Hook: bpflink.Ingress}.ID()
	for _, subject := range []string{hostRouting, masquerading} {
		i := slices.IndexFunc(c.Choices, func(c resource.Choice) bool { return c.Subject == subject })
		if i < 0 || c.Choices[i].Chosen != "bpf" {
			t.Fatalf("%s: %+v", subject, c.Choices)
		}
		for _, id := range []resource.ID{hook, uplink.For("eth0"), exclusion.Exclusions{}.ID()} {
			if got := c.Choices[i].Effective([]resource.Change{{ID: id, Action: resource.Create}}); got == "bpf" {
				t.Errorf("%s is %s without %s", subject, got, id)
			}
		}
	}
}
