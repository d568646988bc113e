package nft

import (
	"net/netip"
	"testing"
)

func TestRanges(t *testing.T) {
	for _, c := range []struct {
		prefixes []string
		want     string
	}{
		{nil, ""},
		{[]string{"10.0.1.0/24", "10.0.0.0/24", "10.0.0.7/32"}, "10.0.0.0/23"},
		{[]string{"10.0.0.0/24", "10.0.2.0/24"}, "10.0.0.0/24, 10.0.2.0/24"},
		{[]string{"10.0.1.0/24", "10.0.2.0/24", "10.0.3.9/32"}, "10.0.1.0-10.0.2.255, 10.0.3.9"},
		{[]string{"255.255.255.0/24", "::/128", "fd00::/64"}, "255.255.255.0/24, ::, fd00::/64"},
		{[]string{"0.0.0.0/0"}, "0.0.0.0/0"},
	} {
		var all []netip.Prefix
		for _, p := range c.prefixes {
			all = append(all, netip.MustParsePrefix(p))
		}
		ranges := Ranges(all)
		if got := joinRanges(ranges); got != c.want {
			t.Errorf("%v are %s, want %s", c.prefixes, got, c.want)
		}
		if len(ranges) == 0 {
			continue
		}
		var back Table
		err := decodeBypass(encodeBypass(Table{Pods: ranges, Ends: ranges}), &back)
		if err != nil || !sameBypass(back, Table{Pods: ranges, Ends: ranges}) {
			t.Errorf("%v came back as %v, %v", ranges, back.Pods, err)
		}
	}
}
