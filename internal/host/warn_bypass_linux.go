package host

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"plumb.internal/plumb/internal/firewall"
)

// Bypassed warns of others' rules that packets of pods don't meet, because eBPF programs hand them over before: firewalls do
// not see what pods of this node send each other, nor, if beyond, what they exchange with other hosts, whose addresses nobody
// else translates then. It only reads.
func (h *Host) Bypassed(beyond bool) []string {
	var names []string
	err := h.root.Do(func() (err error) {
		names, _, err = firewall.Others()
		return err
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

// Untracked warns of the firewalls that ask for the state of connections where those of pods aren't tracked: to them a packet
// is of no connection, whatever was let through before it. It only reads.
func (h *Host) Untracked() []string {
	var names []string
	err := h.root.Do(func() (err error) {
		names, err = statefulChains()
		return err
	})
	if err != nil || len(names) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("what pods and nodes send each other isn't tracked, and rules about the state of connections don't fit it: %s; "+
		`have them accept ct state untracked, or set tuning: conntrackBypass: "off"`, strings.Join(names, ", "))}
}

// statefulChains lists others' chains of nftables that packets of pods may pass and that have rules about connections.
func statefulChains() (names []string, err error) {
	err = firewall.EachChain(func(conn *nftables.Conn, c *nftables.Chain, name string) {
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return
		}
		if slices.ContainsFunc(rules, func(r *nftables.Rule) bool { return slices.ContainsFunc(r.Exprs, asksState) }) {
			names = append(names, name)
		}
	})
	slices.Sort(names)
	return names, err
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

// ForwardChains lists others' chains of nftables that forwarded packets pass and that have rules, or drop what has none.
func (h *Host) ForwardChains() (names []string) {
	err := h.root.Do(func() error {
		return firewall.EachChain(func(conn *nftables.Conn, c *nftables.Chain, name string) {
			if firewall.Sees(conn, c, nftables.ChainHookForward) {
				names = append(names, name)
			}
		})
	})
	if err != nil {
		return nil // Surroundings says what can't be read
	}
	slices.Sort(names)
	return names
}
