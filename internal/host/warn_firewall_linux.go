package host

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/firewall"
	"plumb.internal/plumb/reconciler/resource"
)

// nftables warns of base chains that drop what is forwarded. The calling thread is in the namespace.
func (s *surroundings) nftables() {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return // a kernel without nftables drops nothing by it
	}
	defer conn.CloseLasting()
	chains, err := conn.ListChains()
	switch {
	case errors.Is(err, unix.EPERM):
		s.say("can't read the nftables rules: %v", err)
		return
	case err != nil:
		return
	}
	for _, c := range chains {
		family := firewall.Families[c.Table.Family]
		if c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward || c.Policy == nil || *c.Policy != nftables.ChainPolicyDrop ||
			family == "" || (family == "inet" && c.Table.Name == resource.NftTable) {
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			rules = nil
		}
		var add []string
		for _, p := range s.pods {
			word := map[bool]string{true: "ip", false: "ip6"}[p.Addr().Is4()]
			if family != "inet" && family != word {
				continue
			}
			for _, dir := range []string{"saddr", "daddr"} {
				if !slices.ContainsFunc(rules, func(r *nftables.Rule) bool { return accepts(r, p, dir == "saddr") }) {
					add = append(add, fmt.Sprintf("nft add rule %s %s %s %s %s %s accept", family, c.Table.Name, c.Name, word, dir, p))
				}
			}
		}
		if len(add) > 0 {
			s.drops = true
			s.say("nftables chain %s of table %s %s drops what no rule of it accepts, forwarded packets of pods too; run: %s",
				c.Name, family, c.Table.Name, strings.Join(add, "; "))
		}
	}
}

// accepts reports whether a rule accepts packets from (or to) a whole range of addresses, in the form that the warning
// asks for.
func accepts(r *nftables.Rule, p netip.Prefix, source bool) bool {
	offset := map[[2]bool]uint32{{true, true}: 12, {true, false}: 16, {false, true}: 8, {false, false}: 24}[[2]bool{p.Addr().Is4(), source}]
	network := p.Masked().Addr().AsSlice()
	there, compared, verdict := false, false, false
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Payload:
			there = e.Base == expr.PayloadBaseNetworkHeader && e.Offset == offset
		case *expr.Cmp:
			// A prefix of whole bytes is compared without its zeros.
			if there && e.Op == expr.CmpOpEq && len(e.Data) > 0 && bytes.HasPrefix(network, e.Data) && len(e.Data)*8 >= p.Bits() {
				compared = true
			}
		case *expr.Verdict:
			verdict = e.Kind == expr.VerdictAccept
		}
	}
	return compared && verdict
}

// iptables warns of a legacy filter table that drops what is forwarded. It asks only for tables that are loaded: asking
// for another one would load it. The calling thread is in the namespace.
func (s *surroundings) iptables() {
	for _, v := range []struct {
		is4  bool
		tool string
	}{{true, "iptables"}, {false, "ip6tables"}} {
		if !s.family(v.is4) || !slices.Contains(firewall.LegacyTables(s.root, !v.is4), "filter") {
			continue
		}
		drop, err := firewall.LegacyDrops(!v.is4, "filter", firewall.LegacyForward)
		switch {
		case err != nil:
			s.say("the %s filter table is in use and can't be read (%v): if its FORWARD policy is DROP, packets of pods are lost (%s -S FORWARD)", v.tool, err, v.tool)
		case drop:
			var add []string
			for _, p := range s.pods {
				if p.Addr().Is4() == v.is4 {
					add = append(add, fmt.Sprintf("%s -A FORWARD -s %s -j ACCEPT; %s -A FORWARD -d %s -j ACCEPT", v.tool, p, v.tool, p))
				}
			}
			s.drops = true
			s.say("chain FORWARD of the %s filter table has the policy DROP: packets of pods that no rule accepts are lost; unless rules accept them already, run: %s",
				v.tool, strings.Join(add, "; "))
		}
	}
}
