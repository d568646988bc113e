package features

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

var nftProbes = []probe{
	{NFT, "3.14", "creating an nftables table of family inet", func(*sandbox) error {
		c, err := nftables.New()
		if err != nil {
			return untried("open nftables", err)
		}
		c.AddTable(trialTable())
		return c.Flush()
	}},
	{NFTNat, "5.2", "creating an nftables chain of type nat with a masquerade rule", func(*sandbox) error {
		c, err := nftables.New()
		if err != nil {
			return untried("open nftables", err)
		}
		chain := c.AddChain(&nftables.Chain{
			Name:     "nat",
			Table:    c.AddTable(trialTable()),
			Type:     nftables.ChainTypeNAT,
			Hooknum:  nftables.ChainHookPostrouting,
			Priority: nftables.ChainPriorityNATSource,
		})
		c.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{&expr.Masq{}}})
		return c.Flush()
	}}, {NFTServices, "5.9", "creating nftables maps and rules of the kind that services take, in one transaction", func(*sandbox) error {
		c, err := nftables.New()
		if err != nil {
			return untried("open nftables", err)
		}
		return trialServices(c)
	}},
	{NFTNotrack, "4.9", "creating an nftables set of ranges and a rule that keeps their packets from being tracked", func(*sandbox) error {
		c, err := nftables.New()
		if err != nil {
			return untried("open nftables", err)
		}
		table := c.AddTable(trialTable())
		ranges := &nftables.Set{Table: table, Name: "ranges", KeyType: nftables.TypeIPAddr, Interval: true}
		if err := c.AddSet(ranges, []nftables.SetElement{{Key: []byte{10, 0, 0, 0}}, {Key: []byte{10, 0, 1, 0}, IntervalEnd: true}}); err != nil {
			return untried("describe a set", err)
		}
		chain := c.AddChain(&nftables.Chain{Name: "raw", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: unix.NFT_REG_1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: []byte{unix.NFPROTO_IPV4}},
			&expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
			&expr.Lookup{SourceRegister: unix.NFT_REG_1, SetName: "ranges"},
			&expr.Notrack{},
		}})
		return c.Flush()
	}},
}

// trialServices makes one service: a map from addresses to verdicts, one to backends, a chain that picks by chance and
// one by the hash of the client, and one that refuses where packets come in.
func trialServices(c *nftables.Conn) error {
	table := c.AddTable(trialTable())
	frontend := []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService}
	backends := &nftables.Set{Table: table, Name: "backends", IsMap: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(append(frontend, nftables.TypeMark)...),
		DataType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)}
	verdicts := &nftables.Set{Table: table, Name: "verdicts", IsMap: true, Concatenation: true,
		KeyType: nftables.MustConcatSetType(frontend...), DataType: nftables.TypeVerdict}
	to := func(name string) *expr.Verdict { return &expr.Verdict{Kind: expr.VerdictGoto, Chain: name} }
	key := func(last byte) []byte { return []byte{10, 96, 0, last, 6, 0, 0, 0, 0, 80, 0, 0} }
	if err := c.AddSet(backends, []nftables.SetElement{
		{Key: append(key(1), 0, 0, 0, 0), Val: []byte{10, 0, 0, 10, 0x1f, 0x90, 0, 0}, Comment: "weight 1"},
	}); err != nil {
		return untried("describe a map", err)
	}
	for _, name := range []string{"chance", "hash", "refuse"} {
		c.AddChain(&nftables.Chain{Name: name, Table: table})
	}
	if err := c.AddSet(verdicts, []nftables.SetElement{
		{Key: key(1), VerdictData: to("chance")}, {Key: key(2), VerdictData: to("hash")}, {Key: key(3), VerdictData: to("refuse")},
	}); err != nil {
		return untried("describe a map", err)
	}
	in := c.AddChain(&nftables.Chain{Name: "in", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPrerouting,
		Priority: nftables.ChainPriorityNATDest})
	rule := func(chain string, exprs ...expr.Any) {
		c.AddRule(&nftables.Rule{Table: table, Chain: &nftables.Chain{Name: chain}, Exprs: exprs})
	}
	const proto, port, slot = unix.NFT_REG32_01, unix.NFT_REG32_02, unix.NFT_REG32_03
	address := &expr.Payload{DestRegister: unix.NFT_REG_1, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}
	load := []expr.Any{
		address, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: proto},
		&expr.Payload{DestRegister: port, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
	translate := []expr.Any{
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, IsDestRegSet: true, SetName: "backends"},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: unix.NFT_REG_1, RegProtoMin: proto, Specified: true},
	}
	rule(in.Name, slices.Concat(load, []expr.Any{
		&expr.Lookup{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true, SetName: "verdicts"},
	})...)
	rule("chance", slices.Concat(load, []expr.Any{
		&expr.Numgen{Register: slot, Modulus: 2, Type: unix.NFT_NG_RANDOM},
	}, translate)...)
	rule("hash", slices.Concat(load, []expr.Any{
		&expr.Hash{SourceRegister: unix.NFT_REG_1, DestRegister: slot, Length: 4, Modulus: 2, Seed: 1, Type: expr.HashTypeJenkins},
	}, translate)...)
	rule("refuse", &expr.Reject{Type: unix.NFT_REJECT_TCP_RST})
	return c.Flush()
}

func trialTable() *nftables.Table {
	return &nftables.Table{Name: "trial", Family: nftables.TableFamilyINet}
}
