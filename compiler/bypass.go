package compiler

import (
	"net/netip"

	"plumb.internal/plumb/reconciler/resource/nft"
)

// settleBypass decides whether the kernel tracks what pods send each other.
func (b *builder) settleBypass() {
	wanted, path := b.wish(b.node.Tuning.ConntrackBypass, b.cfg.Tuning.ConntrackBypass, conntrackBypass)
	if !asks(wanted) {
		path = b.node.path
	}
	if b.choose(conntrackBypass, wanted, path, b.situation()) == "on" {
		b.tuned.bypassFrom, b.out.Untracked = path, true
	}
}

// bypassed is the table that keeps what pods of the whole fleet send each other, and the nodes, from being tracked.
func (b *builder) bypassed() nft.Table {
	var pods, ends []netip.Prefix
	for _, n := range b.nodes {
		for _, c := range n.cidrs {
			pods = append(pods, c.Prefix)
		}
		for _, text := range n.Addresses {
			if a, err := netip.ParseAddr(text); err == nil {
				ends = append(ends, host(a.Unmap()))
			}
		}
	}
	return nft.Table{Pods: nft.Ranges(pods), Ends: nft.Ranges(append(ends, pods...)), From: b.tuned.bypassFrom}
}
