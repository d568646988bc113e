package cli

import (
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/reconciler/resource"
)

// Ranges have room for what isn't reserved, and the smallest ones for nothing.
func TestRoomOfRanges(t *testing.T) {
	for text, want := range map[string]uint64{
		"10.0.0.0/24": 253, "10.0.0.0/30": 1, "10.0.0.0/31": 0, "10.0.0.0/32": 0,
		"fd00::/112": 65534, "fd00::/127": 0, "fd00::/128": 0, "fd00::/64": math.MaxUint64,
	} {
		if got := usedOf(netip.MustParsePrefix(text), resource.State{}).Room; got != want {
			t.Errorf("%s has room for %d, want %d", text, got, want)
		}
	}
}

// A packet to which two things happened is told with each of them, and they aren't added up.
func TestRatesByReason(t *testing.T) {
	before := []counted{{Reason: "forwarded", Packets: 10}, {Reason: "routed", Packets: 100}, {Reason: "translated", Packets: 100}}
	after := []counted{{Reason: "forwarded", Packets: 2}, {Reason: "routed", Packets: 150}, {Reason: "translated", Packets: 150}}
	s := flowStatus{Now: 1, Most: 8, Active: 1, Packets: rates(before, after, 500*time.Millisecond)}
	if diff := cmp.Diff(map[string]float64{"routed": 100, "translated": 100}, s.Packets); diff != "" {
		t.Error(diff)
	}
	if got, want := s.text(), "1/8, 1 active in the last second; packets/s: 100 routed, 100 translated"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	s.Packets = rates(after, after, time.Second)
	if got, want := s.text(), "1/8, 1 active in the last second; packets/s: none"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
