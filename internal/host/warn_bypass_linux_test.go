package host

import (
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"plumb.internal/plumb/reconciler/resource"
)

func TestBypassed(t *testing.T) {
	h := private(t)
	expect(t, h.Bypassed())
	err := h.root.Do(func() error {
		conn, err := nftables.New(nftables.AsLasting())
		if err != nil {
			return err
		}
		defer conn.CloseLasting()
		drop, accept := nftables.ChainPolicyDrop, nftables.ChainPolicyAccept
		for _, c := range []struct {
			table, name string
			policy      nftables.ChainPolicy
			hook        *nftables.ChainHook
			rule        bool
		}{
			{"filter", "strict", drop, nftables.ChainHookForward, false},
			{"filter", "ruled", accept, nftables.ChainHookForward, true},
			{"filter", "idle", accept, nftables.ChainHookForward, false},
			{"filter", "in", drop, nftables.ChainHookInput, false},
			{resource.NftTable, "ours", drop, nftables.ChainHookForward, false},
		} {
			chain := conn.AddChain(&nftables.Chain{
				Table: conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: c.table}), Name: c.name,
				Type: nftables.ChainTypeFilter, Hooknum: c.hook, Priority: nftables.ChainPriorityFilter, Policy: &c.policy,
			})
			if c.rule {
				conn.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}})
			}
		}
		return conn.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, h.Bypassed(), []string{"chain ruled of table inet filter, nftables chain strict of table inet filter;", "hostRouting"})
	if h.Writes() != 0 {
		t.Error("looking around writes")
	}
}
