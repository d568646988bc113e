package rule_test

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/rule"
)

func sample(priority int, src string, table int) rule.Rule {
	return rule.Rule{Priority: priority, Src: netip.MustParsePrefix(src), Table: table}
}

// plant adds a rule as somebody else would.
func plant(t *testing.T, h *host.Host, priority int, src string, table int, protocol uint8) {
	t.Helper()
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	p := netip.MustParsePrefix(src)
	r := netlink.NewRule()
	r.Priority, r.Table, r.Protocol = priority, table, protocol
	r.Src = &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
	if err := ns.Handle().RuleAdd(r); err != nil {
		t.Fatal(err)
	}
	h.Forget()
}

func TestKind(t *testing.T) {
	kindtest.Run(t, kindtest.Kind[rule.Rule]{
		Ops: rule.Ops{},
		Samples: []rule.Rule{
			sample(1000, "10.0.0.10/32", resource.Table), sample(1000, "10.0.0.0/24", resource.Table), sample(900, "10.0.0.10/32", 4000),
			sample(1000, "fd00:10::a/128", resource.Table),
		},
		Foreign: func(t *testing.T, h *host.Host, r rule.Rule) func(t *testing.T) {
			plant(t, h, r.Priority, r.Src.String(), r.Table, 4)
			return func(t *testing.T) {
				h.Forget()
				_, foreign, err := (rule.Ops{}).Observe(t.Context(), h, nil)
				if err != nil {
					t.Fatal(err)
				}
				if len(foreign) != 1 || foreign[0].ID() != r.ID() || foreign[0].Protocol != 4 {
					t.Errorf("the foreign rule became %v", foreign)
				}
			}
		},
	})
}

// To the kernel a rule of another protocol is another rule: a delete of ours must not hit it.
func TestSameKeyOfTwoOwners(t *testing.T) {
	h := kindtest.Root(t)
	r := sample(1000, "10.0.0.10/32", resource.Table)
	if err := (rule.Ops{}).Create(t.Context(), h, r); err != nil {
		t.Fatal(err)
	}
	plant(t, h, r.Priority, r.Src.String(), r.Table, 4)
	if err := (rule.Ops{}).Delete(t.Context(), h, r); err != nil {
		t.Fatal(err)
	}
	h.Forget()
	owned, foreign, err := (rule.Ops{}).Observe(t.Context(), h, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(owned) != 0 || len(foreign) != 1 {
		t.Errorf("owned %v, foreign %v", owned, foreign)
	}
}

// The kernel accepts a rule that speaks about pods before the main table's silently.
func TestSilentConflict(t *testing.T) {
	h := kindtest.Root(t)
	plant(t, h, 500, "fd00:10::/48", 300, 0)
	_, foreign, err := (rule.Ops{}).Observe(t.Context(), h, nil)
	if err != nil {
		t.Fatal(err)
	}
	desired := resource.State{}
	if err := desired.Add(rule.PodsForTest{Range: netip.MustParsePrefix("fd00:10::/64")}); err != nil {
		t.Fatal(err)
	}
	got := (rule.Ops{}).Conflicts(desired, foreign)
	if len(got) != 1 || got[0].Foreign != "rule 500: from fd00:10::/48 lookup 300" {
		t.Errorf("conflicts: %+v", got)
	}
}
