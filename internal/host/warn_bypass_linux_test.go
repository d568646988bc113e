package host

import (
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"

	"plumb.internal/plumb/reconciler/resource"
)

func TestBypassed(t *testing.T) {
	h := private(t)
	expect(t, h.Bypassed(false))
	expect(t, h.Bypassed(true))
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
		for name, hook := range map[string]*nftables.ChainHook{"port": nftables.ChainHookPrerouting, "own": nftables.ChainHookOutput} {
			chain := conn.AddChain(&nftables.Chain{
				Table: conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "filter"}), Name: name,
				Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: nftables.ChainPriorityNATDest,
			})
			conn.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}})
		}
		return conn.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
	all := "pass nftables chain port of table inet filter, nftables chain ruled of table inet filter, nftables chain strict of table inet filter;"
	expect(t, h.Bypassed(false), []string{"between pods", all, "hostRouting"})
	expect(t, h.Bypassed(true), []string{"to the uplinks", all})
	if chains := h.ForwardChains(); len(chains) != 2 {
		t.Errorf("forward chains %q", chains)
	}
	if h.Writes() != 0 {
		t.Error("looking around writes")
	}
}

// Rules about connections are found in whatever chain they are; those that accept what isn't tracked count too, as nobody can
// tell what they come to.
func TestUntracked(t *testing.T) {
	h := private(t)
	expect(t, h.Untracked())
	err := h.root.Do(func() error {
		conn, err := nftables.New(nftables.AsLasting())
		if err != nil {
			return err
		}
		defer conn.CloseLasting()
		for name, e := range map[string]expr.Any{
			"stateful": &expr.Ct{Key: expr.CtKeySTATE, Register: 1},
			"marks":    &expr.Ct{Key: expr.CtKeyMARK, Register: 1},
			"counts":   &expr.Counter{},
		} {
			for _, table := range []string{"filter", resource.NftTable} {
				chain := conn.AddChain(&nftables.Chain{
					Table: conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: table}), Name: name,
				})
				conn.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{e}})
			}
		}
		return conn.Flush()
	})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, h.Untracked(), []string{"nftables chain stateful of table inet filter;", "conntrackBypass"})
	if h.Writes() != 0 {
		t.Error("looking around writes")
	}
}
