package nft_test

import (
	"net"
	"net/netip"
	"testing"

	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/nft"
)

// What the table leads to backends is counted, and taking the table away while there is something cuts it.
func TestConnections(t *testing.T) {
	n := newNode(t, 10, 11)
	f := frontend("10.96.0.1:80", "TCP", "10.0.0.10:8080")
	n.has(t, nft.Table{Frontends: []resource.Frontend{f}})
	disruption := func() resource.Disruption {
		table := observe(t, n.Host)
		return table.Disruption(resource.Delete, table)
	}
	expect := func(connections int, want resource.Disruption) {
		t.Helper()
		all, err := nft.ReadConnections(n.Host)
		if err != nil {
			t.Fatal(err)
		}
		if all == nil {
			kindtest.Lacks(t, "this kernel doesn't list its connections")
		}
		if got := all.To(f, f.Backends[0]); got != connections {
			t.Errorf("%d connections, want %d", got, connections)
		}
		if got := disruption(); got != want {
			t.Errorf("with %d connections it disrupts %s, want %s", connections, got, want)
		}
	}
	expect(0, resource.DisruptsNewFlows)
	n.do(t, 11, func() error {
		c, err := net.Dial("tcp", "10.96.0.1:80")
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		return err
	})
	expect(1, resource.DisruptsPod)
	if table := observe(t, n.Host, nft.Table{}); table.Disruption(resource.Delete, table) != resource.DisruptsNewFlows {
		t.Error("the connection table was read though the table stays")
	}
	// It stays, and leads nothing any more.
	kept := nft.Table{Masquerade: nft.Masquerade{Pods: nft.Ranges([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}), Uplinks: []string{"eth0"}}}
	if table := observe(t, n.Host, kept); kept.Disruption(resource.Update, table) != resource.DisruptsPod {
		t.Error("a table that only masquerades from now on cuts nobody")
	}
}
