package compiler

import (
	"net/netip"

	"plumb.internal/plumb/reconciler/resource/nft"
)

// settleBypass decides whether the kernel tracks what pods send each other.
func (b *builder) settleBypass() {
	wanted, path := b.wish(b.node.Tuning.ConntrackBypass, b.cfg.Tuning.ConntrackBypass, conntrackBypass)
	s := b.situation()
	if s.left = !asks(wanted); s.left {
		path = b.node.path
	}
	if b.choose(conntrackBypass, wanted, path, s) == "on" {
		b.tuned.bypassFrom, b.out.Untracked = path, true
	}
}

// bypassed are the pods of the whole fleet, and the ends with which what they exchange isn't tracked: they and the nodes.
func (b *builder) bypassed() (ofPods, ofEnds []nft.Range) {
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
	return nft.Ranges(pods), nft.Ranges(append(ends, pods...))
}
