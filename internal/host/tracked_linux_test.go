package host_test

import (
	"net/netip"
	"testing"

	"plumb.internal/plumb/internal/kindtest"
)

// TestTracked: the connection table of a new namespace is there, and empty.
func TestTracked(t *testing.T) {
	h := kindtest.Root(t)
	table, err := h.Tracked([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")})
	if err != nil {
		t.Fatal(err)
	}
	if table.Entries != 0 || table.Pods != 0 || table.Available && table.Most == 0 {
		t.Errorf("%+v", table)
	}
	if chains := h.ForwardChains(); len(chains) != 0 {
		t.Errorf("chains %v", chains)
	}
}
