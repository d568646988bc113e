package nft

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
)

// bypassChain holds the rules of a table that keeps connections from being tracked.
const bypassChain = "bypass"

// bypassSets are the sets that are for it.
func bypassSets() map[string]*nftables.Set {
	all := map[string]*nftables.Set{}
	for _, name := range []string{podsSet, endsSet} {
		all[name+"4"] = &nftables.Set{KeyType: nftables.TypeIPAddr, Interval: true}
		all[name+"6"] = &nftables.Set{KeyType: nftables.TypeIP6Addr, Interval: true}
	}
	for name, s := range all {
		s.Table, s.Name = table, name
	}
	return all
}

// bypassChains see packets before the kernel looks for their connection: those that come in, and the host's own.
func bypassChains() map[string]ruleChain {
	all := map[string]ruleChain{}
	add := func(c *nftables.Chain, rules ...[]expr.Any) {
		c.Table = table
		rc := ruleChain{Chain: c}
		for _, exprs := range rules {
			rc.rules = append(rc.rules, nftables.Rule{Exprs: exprs})
		}
		all[c.Name] = rc
	}
	for name, hook := range map[string]*nftables.ChainHook{"prerouting": nftables.ChainHookPrerouting, "output": nftables.ChainHookOutput} {
		add(&nftables.Chain{Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityRaw},
			[]expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: bypassChain}})
	}
	add(&nftables.Chain{Name: bypassChain}, untracked(v4, podsSet, endsSet), untracked(v4, endsSet, podsSet),
		untracked(v6, podsSet, endsSet), untracked(v6, endsSet, podsSet))
	return all
}

// untracked is the rule about packets from one set of addresses to another.
func untracked(p proto, from, to string) []expr.Any {
	return slices.Concat(p.only(), []expr.Any{
		p.address(p.source, unix.NFT_REG_1),
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: from + p.number},
		p.address(p.dest, unix.NFT_REG_1),
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: to + p.number},
		&expr.Notrack{},
	})
}

// tracked are the connections that a table keeps from being tracked, as they are in the connection table from before. Those
// that were translated stay, and so does what they need.
type tracked Table

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (t tracked) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if !f.Forward.SrcIP.Equal(f.Reverse.DstIP) || !f.Forward.DstIP.Equal(f.Reverse.SrcIP) ||
		f.Forward.SrcPort != f.Reverse.DstPort || f.Forward.DstPort != f.Reverse.SrcPort {
		return false
	}
	in := func(ranges []Range, ip net.IP) bool {
		a, ok := netip.AddrFromSlice(ip)
		return ok && slices.ContainsFunc(ranges, func(r Range) bool { return r.contains(a.Unmap()) })
	}
	return in(t.Pods, f.Forward.SrcIP) && in(t.Ends, f.Forward.DstIP) || in(t.Ends, f.Forward.SrcIP) && in(t.Pods, f.Forward.DstIP)
}

// forget deletes them, where there are any. A kernel that can't is no error: they end by themselves.
func (t tracked) forget(h *host.Host) error {
	if !Table(t).Bypasses() {
		return nil
	}
	n, err := Table(t).stillTracked()
	if err != nil || n == 0 {
		return err
	}
	c, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open the connection table: %w", err)
	}
	defer c.Close()
	h.Wrote("delete the %d connections that aren't tracked any more", n)
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if _, err := c.ConntrackDeleteFilters(netlink.ConntrackTable, family, t); err != nil && !noConntrack(err) {
			return fmt.Errorf("delete connections that aren't tracked any more: %w", err)
		}
	}
	return nil
}

// Tracked counts the connections in the root namespace's connection table that the table keeps from being tracked: there are
// none, but for those that began before it. It is 0 where the kernel has no way to list them.
func (t Table) Tracked(h *host.Host) (n int, err error) {
	err = inRoot(h, func() error {
		n, err = t.stillTracked()
		return err
	})
	return n, err
}

// stillTracked counts them in the calling thread's namespace.
func (t Table) stillTracked() (n int, err error) {
	c, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return 0, fmt.Errorf("open the connection table: %w", err)
	}
	defer c.Close()
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := c.ConntrackTableList(netlink.ConntrackTable, family)
		switch {
		case noConntrack(err):
			return 0, nil
		case err != nil:
			return 0, fmt.Errorf("list the connection table: %w", err)
		}
		for _, f := range flows {
			if tracked(t).MatchConntrackFlow(f) {
				n++
			}
		}
	}
	return n, nil
}
