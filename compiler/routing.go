package compiler

import (
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/route"
	"plumb.internal/plumb/reconciler/resource/sysctl"
)

const (
	// metric6 is the metric that the kernel gives IPv6 routes if none is asked for.
	metric6 = 1024
	// lastMetric is for the routes that answer for pod addresses nobody has: any other route wins. It fits an int of 32 bits.
	lastMetric = 1_000_000_000
)

// root is what a node with pods needs in its root namespace whatever their attachment.
func (b *builder) root() {
	var v4, v6 bool
	for _, p := range b.node.pods {
		v4 = v4 || p.has(false)
		v6 = v6 || p.has(true)
	}
	if v4 {
		b.put(sysctl.Sysctl{Key: "net.ipv4.ip_forward", Value: "1", From: b.node.path})
	}
	if v6 {
		b.forwarding6()
	}
	for _, c := range b.node.cidrs {
		b.put(route.Route{Dst: c.Prefix, Table: route.MainTable, Metric: lastMetric, Unreachable: true, PodPrefix: true, From: c.path})
	}
}

// forwarding6 switches IPv6 forwarding on. That makes the kernel drop routes learnt from router advertisements, unless the
// device takes them as a router too; so where an uplink takes them, it must do that first. What other devices learnt, the
// sysctl itself looks for.
func (b *builder) forwarding6() {
	var last resource.ID
	for i, u := range b.node.Uplinks {
		accept := sysctl.Sysctl{
			Key: "net.ipv6.conf." + sysctlPart(u) + ".accept_ra", Value: "2", OnlyFrom: "1",
			Follow: last, From: element(b.node.path+".uplinks", i),
		}
		b.put(accept)
		last = accept.ID()
	}
	b.put(sysctl.Sysctl{Key: "net.ipv6.conf.all.forwarding", Value: "1", Follow: last, From: b.node.path})
}

// metric is the metric of an ordinary route.
func metric(v6 bool) int {
	if v6 {
		return metric6
	}
	return 0
}
