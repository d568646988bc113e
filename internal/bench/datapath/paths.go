package main

import (
	"context"
	"fmt"
	"net/netip"

	"plumb.internal/plumb/internal/bench/lanes"
	"plumb.internal/plumb/reconciler/features"
)

// path is one way from the client to a server.
type path struct {
	// alone says that the number of services has no meaning for it: there are none.
	alone bool
	// programs says that the node has plumb's eBPF programs; services is what its configuration says of routing.services.
	programs bool
	services string
	// pod says that the client connects to the pod and not to the service.
	pod bool
	// extra is what is done to the bed afterwards. What it makes goes with the bed's namespaces.
	extra func(ctx context.Context, b *bed, services int) error
	// mark and aim are how many times a connection of path direct one by this path may cost, and should.
	mark, aim float64
}

// paths by name, as -paths takes them.
var paths = map[string]path{
	"direct":    {alone: true, pod: true},                                          // pods as plumb connects them, through the node's stack
	"bare":      {alone: true, pod: true, extra: bareRedirect},                     // a redirect and nothing else
	"programs":  {alone: true, pod: true, programs: true, mark: 1.02, aim: 1},      // what a node without services has
	"plumb":     {pod: true, programs: true, services: "auto", mark: 1.02, aim: 1}, // all that a node with services has
	"socket":    {programs: true, services: "socket", mark: 1.03, aim: 1.01},
	"packet":    {programs: true, services: "packet", mark: 1.06, aim: 1.01},
	"nft":       {programs: true, services: "nftables"},
	"kubeproxy": {extra: kubeProxy}, // pods through the node's stack, and its rules
}

// features is what a node of the path is told of a kernel's.
func (p path) features(set *features.Set) *features.Set {
	if p.programs {
		return set
	}
	return without(set, features.GlobalData) // which all programs on devices need
}

// note says what a claim below 10 % may rest on has to reach.
func (p path) note(m lanes.Metric) string {
	if m != lanes.CPUConnection && m != lanes.PerConnection && m != lanes.PerRoundTrip {
		return ""
	}
	return fmt.Sprintf("  (mark %.2f, aim %.2f)", p.mark, p.aim)
}

func (p path) target(b *bed) netip.AddrPort {
	if p.pod {
		return netip.AddrPortFrom(b.backend[0], lanes.Port)
	}
	return netip.AddrPortFrom(serviceAddr(0), lanes.Port)
}

// serviceAddr is the address of service i. The client connects to the first one; the others are there.
func serviceAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)})
}

// backendsOf are the backends of service i: the servers of the first one, addresses of nobody for the others.
func backendsOf(b *bed, i int) []netip.Addr {
	if i == 0 {
		return b.backend
	}
	all := make([]netip.Addr, len(b.backend))
	for k := range all {
		n := i*len(all) + k
		all[k] = netip.AddrFrom4([4]byte{10, 1 + byte(n>>16), byte(n >> 8), byte(n)})
	}
	return all
}
