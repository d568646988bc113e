package nft

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/reconciler/resource"
)

var table = &nftables.Table{Name: resource.NftTable, Family: nftables.TableFamilyINet}

// newSets returns the table's sets by name. Slots have type mark: of the types that nft can print it is the one of four
// bytes in the machine's order, which is how numgen and jhash put them.
func newSets() map[string]*nftables.Set {
	device := nftables.TypeIFName
	all := map[string]*nftables.Set{segmentsSet: {KeyType: nftables.MustConcatSetType(device, device)}}
	for v, address := range map[string]nftables.SetDatatype{"4": nftables.TypeIPAddr, "6": nftables.TypeIP6Addr} {
		proto, port := nftables.TypeInetProto, nftables.TypeInetService
		all[servicesSet+v] = &nftables.Set{IsMap: true, KeyType: nftables.MustConcatSetType(address, proto, port),
			DataType: nftables.TypeVerdict}
		all[slotsSet+v] = &nftables.Set{IsMap: true, KeyType: nftables.MustConcatSetType(address, proto, port, nftables.TypeMark),
			DataType: nftables.MustConcatSetType(address, port)}
		all[hairpinSet+v] = &nftables.Set{KeyType: nftables.MustConcatSetType(address, address)}
	}
	for name, s := range all {
		s.Table, s.Name, s.Concatenation = table, name, true
	}
	return all
}

// ruleChain is one chain with its rules.
type ruleChain struct {
	*nftables.Chain
	rules []nftables.Rule // with expressions only
}

// services is the chain that both hooks go to.
const services = "services"

// newChains returns the chains that are always there, and those by which frontends pick.
func newChains(picking map[string]chain) map[string]ruleChain {
	all := map[string]ruleChain{}
	add := func(c *nftables.Chain, rules ...[]expr.Any) {
		c.Table = table
		rc := ruleChain{Chain: c}
		for _, exprs := range rules {
			rc.rules = append(rc.rules, nftables.Rule{Exprs: exprs})
		}
		all[c.Name] = rc
	}
	base := func(name string, hook *nftables.ChainHook, p *nftables.ChainPriority, rules ...[]expr.Any) {
		add(&nftables.Chain{Name: name, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: p}, rules...)
	}
	jump := []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: services}}
	base("prerouting", nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, jump)
	base("output", nftables.ChainHookOutput, nftables.ChainPriorityNATDest, jump)
	base("postrouting", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource,
		hairpin(v4), hairpin(v6), segments())
	add(&nftables.Chain{Name: services}, find(v4), find(v6))
	add(&nftables.Chain{Name: refuse}, refuseRules()...)
	for name, c := range picking {
		add(&nftables.Chain{Name: name}, pick(c))
	}
	return all
}

// markedSet bears the mark, as its comment. It comes in the transaction that makes the table, and unlike a rule's it stays
// when somebody flushes the table. Tables have comments of their own, but not on every kernel, nor in the library.
const markedSet = segmentsSet

// mark is the comment that says whose the table is.
func mark(node string) string { return resource.AliasPrefix + " node " + node }

// markedBy returns the node that a comment names.
func markedBy(comment string) (node string, ok bool) { return strings.CutPrefix(comment, mark("")) }

// proto is where the addresses of a family are in the packet, and in the registers of a key: an address is first, and
// the kernel calls every fourth register of 32 bits by the number of the one of 128 bits that it begins.
type proto struct {
	family, size, source, dest    uint32
	proto, port, slot, from, data uint32
	number                        string
}

var (
	v4 = proto{family: unix.NFPROTO_IPV4, size: 4, source: 12, dest: 16, number: "4",
		proto: unix.NFT_REG32_01, port: unix.NFT_REG32_02, slot: unix.NFT_REG32_03, from: unix.NFT_REG_2, data: unix.NFT_REG32_01}
	v6 = proto{family: unix.NFPROTO_IPV6, size: 16, source: 8, dest: 24, number: "6",
		proto: unix.NFT_REG_2, port: unix.NFT_REG32_05, slot: unix.NFT_REG32_06, from: unix.NFT_REG_3, data: unix.NFT_REG_2}
)

// only lets packets of one family on.
func (p proto) only() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{byte(p.family)}},
	}
}

func (p proto) address(offset, register uint32) expr.Any {
	return &expr.Payload{OperationType: expr.PayloadLoad, DestRegister: register, Base: expr.PayloadBaseNetworkHeader,
		Offset: offset, Len: p.size}
}

// frontend puts the packet's destination into the registers from the first one on.
func (p proto) frontend() []expr.Any {
	return []expr.Any{
		p.address(p.dest, unix.NFT_REG_1),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: p.proto},
		&expr.Payload{OperationType: expr.PayloadLoad, DestRegister: p.port, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// find goes to the chain of the packet's frontend.
func find(p proto) []expr.Any {
	return slices.Concat(p.only(), p.frontend(), []expr.Any{
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true,
			SetName: servicesSet + p.number},
	})
}

// seed of the hash of clients: a constant, so that a table made anew sends them where they were.
const seed = 0x706c756d

// pick translates to the backend in one of the frontend's slots. With one slot there is nothing to hash, and old kernels
// refuse to.
func pick(c chain) []expr.Any {
	p := v4
	if c.family == '6' {
		p = v6
	}
	var slot []expr.Any
	switch modulus := uint32(c.slots); {
	case c.way == source && modulus > 1:
		slot = []expr.Any{
			p.address(p.source, p.from),
			&expr.Hash{SourceRegister: p.from, DestRegister: p.slot, Length: p.size, Modulus: modulus, Seed: seed,
				Type: expr.HashTypeJenkins},
		}
	case c.way == resource.RoundRobin:
		slot = []expr.Any{&expr.Numgen{Register: p.slot, Modulus: modulus, Type: unix.NFT_NG_INCREMENTAL}}
	default:
		slot = []expr.Any{&expr.Numgen{Register: p.slot, Modulus: modulus, Type: unix.NFT_NG_RANDOM}}
	}
	// The family is known here. It is asked for so that nft lists the rule in names of fields and not in offsets.
	return slices.Concat(p.only(), p.frontend(), slot, []expr.Any{
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, IsDestRegSet: true, SetName: slotsSet + p.number},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: p.family, RegAddrMin: unix.NFT_REG_1, RegAddrMax: unix.NFT_REG_1,
			RegProtoMin: p.data, RegProtoMax: p.data, Specified: true},
	})
}

// refuseRules answer at once: TCP by a reset, the rest by port unreachable.
func refuseRules() [][]expr.Any {
	return [][]expr.Any{
		{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: unix.NFT_REG_1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{tcp}},
			&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
		},
		{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}},
	}
}

// translated lets on what a service sent elsewhere.
func translated() []expr.Any {
	const dnat = 1 << 5 // IPS_DST_NAT
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: unix.NFT_REG_1},
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4, Mask: []byte{dnat, 0, 0, 0}, Xor: []byte{0, 0, 0, 0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG_1, Data: []byte{0, 0, 0, 0}},
	}
}

// hairpin masquerades a pod that reaches itself.
func hairpin(p proto) []expr.Any {
	to := p.proto // the register after an address
	return slices.Concat(p.only(), translated(), []expr.Any{
		p.address(p.source, unix.NFT_REG_1),
		p.address(p.dest, to),
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: hairpinSet + p.number},
		&expr.Masq{},
	})
}

// segments masquerades what leaves by the device that it came in by.
func segments() []expr.Any {
	return slices.Concat(translated(), []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG_1},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: unix.NFT_REG_2},
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: segmentsSet},
		&expr.Masq{},
	})
}

// damaged says what in the chains that are there differs from those that should be, "" for nothing.
func damaged(have, want map[string]ruleChain) string {
	for _, name := range slices.Sorted(maps.Keys(want)) {
		h, ok := have[name]
		w := want[name]
		switch {
		case !ok:
			return "chain " + name + " is missing"
		case h.Type != w.Type || !equal(h.Hooknum, w.Hooknum) || !equal(h.Priority, w.Priority):
			return "chain " + name + " is at another hook"
		case len(h.rules) != len(w.rules):
			return "chain " + name + " has other rules"
		}
		for i := range w.rules {
			if !reflect.DeepEqual(h.rules[i].Exprs, w.rules[i].Exprs) {
				return "chain " + name + " has another rule"
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if _, ok := want[name]; !ok {
			return "chain " + name + " is not plumb's"
		}
	}
	return ""
}

func equal[T cmp.Ordered](a, b *T) bool { return (a == nil) == (b == nil) && (a == nil || *a == *b) }
