package main

import (
	"fmt"
	"net/netip"

	"plumb.internal/plumb/internal/bench/lanes"
	"plumb.internal/plumb/schema"
)

// way is one way from the pod to the host behind the uplink.
type way struct {
	name       string
	routing    schema.Routing
	bypass     string // what the configuration says of tuning.conntrackBypass
	outside    bool   // the host is none that the files know
	tracked    bool   // the node's kernel has the connections in its table
	translated bool   // the host sees them come from the node
}

// group is what is compared with its first way.
type group struct {
	name  string
	rules int
	ways  []way
}

func groups(rules []int) []group {
	var all []group
	for _, n := range rules {
		if n == noFirewall {
			all = append(all, group{name: "to another node, no firewall", rules: n, ways: []way{
				{name: "legacy", routing: schema.Routing{HostRouting: "legacy"}, bypass: "off"},
				{name: "bpf", routing: schema.Routing{HostRouting: "bpf"}},
			}})
			continue
		}
		all = append(all, group{name: fmt.Sprintf("to another node, %d rules", n), rules: n, ways: []way{
			{name: "legacy", routing: schema.Routing{HostRouting: "legacy"}, bypass: "off", tracked: true},
			{name: "legacy, bypass", routing: schema.Routing{HostRouting: "legacy"}, bypass: "on"},
			{name: "bpf", routing: schema.Routing{HostRouting: "bpf"}},
		}})
	}
	masquerade := func(name, how, hostRouting string, tracked bool) way {
		return way{name: name, routing: schema.Routing{HostRouting: hostRouting, Masquerade: how}, bypass: "off", outside: true, tracked: tracked,
			translated: how != "off"}
	}
	return append(all, group{name: "to the outside", ways: []way{
		masquerade("nftables", "nftables", "legacy", true),
		masquerade("off", "off", "legacy", true),
		masquerade("bpf", "bpf", "legacy", true),
		masquerade("bpf, host routing", "bpf", "bpf", false),
		masquerade("off, host routing", "off", "bpf", false),
	}})
}

func (w way) target() netip.AddrPort {
	if w.outside {
		return netip.AddrPortFrom(outside, lanes.Port)
	}
	return netip.AddrPortFrom(far, lanes.Port)
}
