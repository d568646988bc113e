package host

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"plumb.internal/plumb/reconciler/resource"
)

// Bypassed warns of others' rules that packets of pods don't meet, because eBPF programs hand them over before: firewalls do
// not see what pods of this node send each other, nor, if beyond, what they exchange with other hosts, whose addresses nobody
// else translates then. It only reads.
func (h *Host) Bypassed(beyond bool) []string {
	var names []string
	err := h.root.Do(func() error {
		if names = forwardChains(); beyond {
			names = append(names, natChains()...)
		}
		return nil
	})
	if err != nil || len(names) == 0 {
		return nil // Surroundings says what can't be read
	}
	whose := "between pods of this node go straight from one to the other"
	if beyond {
		whose = "of pods go straight to each other and to the uplinks"
	}
	return []string{fmt.Sprintf("packets %s and don't pass %s; "+
		`set routing: hostRouting: "legacy" to lead them through it`, whose, strings.Join(names, ", "))}
}

// natChains lists others' chains of nftables that translate what comes in or goes out, and have rules.
func natChains() []string {
	var names []string
	eachChain(func(conn *nftables.Conn, c *nftables.Chain, name string) {
		if c.Hooknum == nil || c.Type != nftables.ChainTypeNAT ||
			*c.Hooknum != *nftables.ChainHookPrerouting && *c.Hooknum != *nftables.ChainHookPostrouting {
			return
		}
		if rules, err := conn.GetRules(c.Table, c); err == nil && len(rules) > 0 {
			names = append(names, name)
		}
	})
	slices.Sort(names)
	return names
}

// Untracked warns of the firewalls that ask for the state of connections where those of pods aren't tracked: to them a packet
// is of no connection, whatever was let through before it. It only reads.
func (h *Host) Untracked() []string {
	var names []string
	err := h.root.Do(func() error {
		names = statefulChains()
		return nil
	})
	if err != nil || len(names) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("what pods and nodes send each other isn't tracked, and rules about the state of connections don't fit it: %s; "+
		`have them accept ct state untracked, or set tuning: conntrackBypass: "off"`, strings.Join(names, ", "))}
}

// statefulChains lists others' chains of nftables that packets of pods may pass and that have rules about connections.
func statefulChains() []string {
	var names []string
	eachChain(func(conn *nftables.Conn, c *nftables.Chain, name string) {
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return
		}
		if slices.ContainsFunc(rules, func(r *nftables.Rule) bool { return slices.ContainsFunc(r.Exprs, asksState) }) {
			names = append(names, name)
		}
	})
	slices.Sort(names)
	return names
}

// asksState reports whether an expression reads a connection's state, as nft and as iptables write it.
func asksState(e expr.Any) bool {
	switch e := e.(type) {
	case *expr.Ct:
		return e.Key == expr.CtKeySTATE && !e.SourceRegister
	case *expr.Match:
		return e.Name == "conntrack" || e.Name == "state"
	}
	return false
}

// eachChain calls f with others' chains that look at packets, whatever hook they are at or called from.
func eachChain(f func(*nftables.Conn, *nftables.Chain, string)) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return
	}
	defer conn.CloseLasting()
	chains, err := conn.ListChains()
	if err != nil {
		return
	}
	for _, c := range chains {
		family := nftFamilies[c.Table.Family]
		if family != "" && (family != "inet" || c.Table.Name != resource.NftTable) {
			f(conn, c, fmt.Sprintf("nftables chain %s of table %s %s", c.Name, family, c.Table.Name))
		}
	}
}

// ForwardChains lists others' chains of nftables that forwarded packets pass and that have rules, or drop what has none.
func (h *Host) ForwardChains() (names []string) {
	err := h.root.Do(func() error {
		names = forwardChains()
		return nil
	})
	if err != nil {
		return nil // Surroundings says what can't be read
	}
	return names
}

// forwardChains lists others' chains of nftables that forwarded packets pass and that have rules, or drop what has none.
func forwardChains() []string {
	var names []string
	eachChain(func(conn *nftables.Conn, c *nftables.Chain, name string) {
		if c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward {
			return
		}
		rules, err := conn.GetRules(c.Table, c)
		if drops := c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop; drops || err == nil && len(rules) > 0 {
			names = append(names, name)
		}
	})
	slices.Sort(names)
	return names
}
