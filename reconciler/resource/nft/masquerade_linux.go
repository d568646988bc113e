package nft

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// masqueradeChain holds the rules of a table that masquerades.
const masqueradeChain = "masquerade"

func masqueradeSets() map[string]*nftables.Set {
	all := map[string]*nftables.Set{uplinksSet: {KeyType: nftables.TypeIFName}}
	for _, name := range []string{masqueradedSet, excludedSet} {
		all[name+"4"] = &nftables.Set{KeyType: nftables.TypeIPAddr, Interval: true}
		all[name+"6"] = &nftables.Set{KeyType: nftables.TypeIP6Addr, Interval: true}
	}
	for name, s := range all {
		s.Table, s.Name = table, name
	}
	return all
}

// masqueradeChains come after the one that serves pods which reach themselves.
func masqueradeChains() map[string]ruleChain {
	after := nftables.ChainPriority(*nftables.ChainPriorityNATSource + 1)
	rc := ruleChain{Chain: &nftables.Chain{Table: table, Name: masqueradeChain, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: &after}}
	for _, exprs := range [][]expr.Any{begun(), masquerade(v4), masquerade(v6)} {
		rc.rules = append(rc.rules, nftables.Rule{Exprs: exprs})
	}
	return map[string]ruleChain{masqueradeChain: rc}
}

// begun leaves connections alone that began before the table, or from outside: who has them knows the pod by its address.
func begun() []expr.Any {
	const fin, syn, rst, ack = 1, 2, 4, 16
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{tcp}},
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 1, Mask: []byte{fin | syn | rst | ack}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG_1, Data: []byte{syn}},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}
}

// masquerade gives what pods send out the uplink's address, and a port by chance: two processors that look for one at the
// same time would else find the same, and one of the connections would have to wait.
func masquerade(p proto) []expr.Any {
	return slices.Concat(p.only(), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: unix.NFT_REG_1},
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: uplinksSet},
		p.address(p.source, unix.NFT_REG_1),
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: masqueradedSet + p.number},
		p.address(p.dest, unix.NFT_REG_1),
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: excludedSet + p.number, Invert: true},
		&expr.Masq{FullyRandom: true},
	})
}

// changeMasquerade adds to a transaction what brings the sets from one state to another. A set is filled anew: ranges that
// touch can't be told apart while they change one by one. It returns the number of elements.
func changeMasquerade(c *nftables.Conn, from, to Masquerade) (n int, err error) {
	was, is, all := encodeMasquerade(from), encodeMasquerade(to), masqueradeSets()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if maps.Equal(was[name], is[name]) {
			continue
		}
		c.FlushSet(all[name])
		if err := eachPart(all[name], is[name], c.SetAddElements); err != nil {
			return n, err
		}
		n += len(was[name]) + len(is[name])
	}
	return n, nil
}

// busy reports whether connections of pods that left by another address are under way, or whether nobody can tell.
func (m Masquerade) busy() (bool, error) {
	c, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return true, fmt.Errorf("open the connection table: %w", err)
	}
	defer c.Close()
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := c.ConntrackTableList(netlink.ConntrackTable, family)
		switch {
		case noConntrack(err):
			return true, nil
		case err != nil:
			return true, fmt.Errorf("list the connection table: %w", err)
		}
		for _, f := range flows {
			src, ok := netip.AddrFromSlice(f.Forward.SrcIP)
			if ok && !over(f) && !f.Forward.SrcIP.Equal(f.Reverse.DstIP) &&
				slices.ContainsFunc(m.Pods, func(r Range) bool { return r.contains(src.Unmap()) }) {
				return true, nil
			}
		}
	}
	return false, nil
}
