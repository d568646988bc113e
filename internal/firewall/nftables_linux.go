package firewall

import (
	"fmt"

	"github.com/google/nftables"
)

// ownTable is the table of family inet that plumb makes.
const ownTable = "plumb"

// Families are those of nftables whose chains see what is routed.
var Families = map[nftables.TableFamily]string{
	nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
}

// EachChain calls f with others' chains that look at packets, whatever hook they are at or called from, and with what they are
// for people.
func EachChain(f func(*nftables.Conn, *nftables.Chain, string)) error {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return err
	}
	defer conn.CloseLasting()
	chains, err := conn.ListChains()
	if err != nil {
		return err
	}
	for _, c := range chains {
		family := Families[c.Table.Family]
		if family != "" && (family != "inet" || c.Table.Name != ownTable) {
			f(conn, c, fmt.Sprintf("nftables chain %s of table %s %s", c.Name, family, c.Table.Name))
		}
	}
	return nil
}

// Sees reports whether a chain does anything to what passes it at one of some hooks: it has rules, or drops what has none. Rules
// that can't be read are rules all the same.
func Sees(conn *nftables.Conn, c *nftables.Chain, hooks ...*nftables.ChainHook) bool {
	for _, h := range hooks {
		if c.Hooknum == nil || *c.Hooknum != *h {
			continue
		}
		if c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
			return true
		}
		rules, err := conn.GetRules(c.Table, c)
		return err != nil || len(rules) > 0
	}
	return false
}

// nftChains names others' chains that forwarded packets pass, and those among them that translate addresses.
func nftChains() (names, nat []string, err error) {
	err = EachChain(func(conn *nftables.Conn, c *nftables.Chain, name string) {
		if Sees(conn, c, nftables.ChainHookPrerouting, nftables.ChainHookForward, nftables.ChainHookPostrouting) {
			names = append(names, name)
			if c.Type == nftables.ChainTypeNAT {
				nat = append(nat, name)
			}
		}
	})
	if err != nil && !lacks(err) {
		return nil, nil, err
	}
	return names, nat, nil
}
