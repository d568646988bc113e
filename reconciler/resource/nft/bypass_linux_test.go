package nft_test

import (
	"net"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/reconciler/resource/nft"
)

// track makes the kernel track connections, as any stateful firewall does.
func (n *node) track(t *testing.T) {
	inRoot(t, n.Host, func(c *nftables.Conn) error {
		table := c.AddTable(&nftables.Table{Name: "firewall", Family: nftables.TableFamilyINet})
		chain := c.AddChain(&nftables.Chain{Name: "forward", Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
			&expr.Ct{Key: expr.CtKeySTATE, Register: unix.NFT_REG_1}, &expr.Counter{},
		}})
		return c.Flush()
	})
}

// meet has a pod, or the host (0), ask another by TCP and UDP.
func (n *node) meet(t *testing.T, from int, to ...string) {
	t.Helper()
	for _, a := range to {
		for _, network := range []string{"tcp", "udp"} {
			n.count(t, from, 1, network, net.JoinHostPort(a, "8080"))
		}
	}
}

// What pods send each other, and the nodes that are named, leaves nothing in the connection table, not even what was there
// before; all else is tracked.
func TestBypass(t *testing.T) {
	n := newNode(t, 10, 11)
	n.track(t)
	n.answer(t, 0)
	table := bypass([]string{"10.0.0.0/24", "fd00:10::/64"}, "192.0.2.1")
	// Whoever asks the host by its other address isn't asked for.
	other := bypass([]string{"10.0.0.0/24", "fd00:10::/64"}, "fd00:1::1")
	tracked := func(table nft.Table, want int) {
		t.Helper()
		if got, err := table.Tracked(n.Host); err != nil || got != want {
			t.Errorf("%d connections are tracked, want %d; %v", got, want, err)
		}
	}
	n.meet(t, 10, pod4(11), pod6(11), "192.0.2.1", "fd00:1::1")
	n.meet(t, 0, pod4(10), pod6(10))
	tracked(table, 2*(2+1+1)) // by IPv6 the host asks from an address that isn't named
	c, err := n.dial(t, 10, "tcp", net.JoinHostPort(pod4(11), "8080"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := (nft.Ops{}).Create(t.Context(), n.Host, table); err != nil {
		t.Fatal(err)
	}
	tracked(table, 0)
	if a, err := ask(c); err != nil || a != "11" {
		t.Errorf("a connection from before gets %q, %v", a, err)
	}
	n.meet(t, 10, pod4(11), pod6(11), "192.0.2.1")
	// The host asks from its own address, which is named.
	n.meet(t, 0, pod4(10))
	tracked(table, 0)
	// One that isn't named is tracked.
	n.meet(t, 11, "fd00:1::1")
	tracked(other, 2*(1+1+1)) // with those from before

	// Nobody translates what isn't tracked.
	both := table
	both.Segments = []string{"br0"}
	if err := (nft.Ops{}).Update(t.Context(), n.Host, table, both); err == nil {
		t.Error("a table that translates and bypasses was made")
	}
	if err := (nft.Ops{}).Delete(t.Context(), n.Host, table); err != nil {
		t.Fatal(err)
	}
	if a, err := ask(c); err != nil || a != "11" {
		t.Errorf("afterwards it gets %q, %v", a, err)
	}
	n.meet(t, 10, pod4(11))
	// Also what had begun before and went on.
	tracked(table, 3)
}
