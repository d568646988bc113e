package host

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"

	"plumb.internal/plumb/reconciler/resource"
)

// Bypassed warns of the firewalls that no longer see what pods of this node send each other, because eBPF programs hand it
// over before it gets to them. It only reads.
func (h *Host) Bypassed() []string {
	var names []string
	err := h.root.Do(func() error {
		names = forwardChains()
		return nil
	})
	if err != nil || len(names) == 0 {
		return nil // Surroundings says what can't be read
	}
	return []string{fmt.Sprintf("packets between pods of this node go straight from one to the other and don't pass %s; "+
		`set routing: hostRouting: "legacy" to lead them through it`, strings.Join(names, ", "))}
}

// forwardChains lists others' chains of nftables that forwarded packets pass and that have rules, or drop what has none.
func forwardChains() []string {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil
	}
	defer conn.CloseLasting()
	chains, err := conn.ListChains()
	if err != nil {
		return nil
	}
	var names []string
	for _, c := range chains {
		family := nftFamilies[c.Table.Family]
		if c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward || family == "" || (family == "inet" && c.Table.Name == resource.NftTable) {
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if drops := c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop; drops || err == nil && len(rules) > 0 {
			names = append(names, fmt.Sprintf("nftables chain %s of table %s %s", c.Name, family, c.Table.Name))
		}
	}
	slices.Sort(names)
	return names
}
