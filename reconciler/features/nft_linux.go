package features

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
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
	}},
}

func trialTable() *nftables.Table {
	return &nftables.Table{Name: "trial", Family: nftables.TableFamilyINet}
}
