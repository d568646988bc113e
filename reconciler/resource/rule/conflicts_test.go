package rule

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/reconciler/resource"
)

func TestConflicts(t *testing.T) {
	desired := resource.State{}
	err := desired.Add(
		PodsForTest{Range: netip.MustParsePrefix("10.0.0.0/24")}, PodsForTest{Range: netip.MustParsePrefix("fd00:10::/64")},
		Rule{NetNS: "db", Priority: 1000, Src: netip.MustParsePrefix("10.0.0.20/32"), Table: 112},
	)
	if err != nil {
		t.Fatal(err)
	}
	r := func(netns string, prio int, src string, table int, rest string) Rule {
		f := Rule{NetNS: netns, Priority: prio, Table: table, Rest: rest, Protocol: 3}
		if src != "" {
			f.Src = netip.MustParsePrefix(src)
		}
		return f
	}
	to := func(dst string, table int) Rule {
		f := r("", 500, "", table, "to "+dst)
		f.Dst = netip.MustParsePrefix(dst)
		return f
	}
	for _, c := range []struct {
		name    string
		foreign Rule
		want    string
	}{
		{"from one pod", r("", 500, "10.0.0.7/32", 100, ""), "route 10.0.0.0/24 | rule 500: from 10.0.0.7 lookup 100 | protocol boot"},
		{"from around the pods", r("", 500, "10.0.0.0/8", 100, "fwmark 0x1"), "route 10.0.0.0/24 | rule 500: from 10.0.0.0/8 fwmark 0x1 lookup 100 | protocol boot"},
		{"from the pods' IPv6", r("", 500, "fd00:10::/64", 254, ""), "route fd00:10::/64 | rule 500: from fd00:10::/64 lookup main | protocol boot"},
		{"after the main table", r("", 32767, "10.0.0.0/24", 100, ""), ""},
		{"from elsewhere", r("", 500, "192.168.0.0/16", 100, ""), ""},
		{"from all", r("", 500, "", 51820, "not fwmark 0xca6c"), ""},
		{"to the pods", to("10.0.0.0/16", 100), "route 10.0.0.0/24 | rule 500: from all to 10.0.0.0/16 lookup 100 | protocol boot"},
		{"to the pods, by the main table", to("10.0.0.0/16", 254), ""},
		{"to elsewhere", to("192.168.0.0/16", 100), ""},
		{"before plumb's in an adopted namespace", r("db", 900, "10.0.0.0/24", 100, ""), "rule db/1000: from 10.0.0.20/32 lookup 112 | rule 900: from 10.0.0.0/24 lookup 100 | protocol boot"},
		{"equal key in an adopted namespace", r("db", 1000, "10.0.0.20/32", 112, ""), "rule db/1000: from 10.0.0.20/32 lookup 112 | rule 1000: from 10.0.0.20 lookup 112 | protocol boot"},
		{"after plumb's in an adopted namespace", r("db", 1100, "10.0.0.0/24", 100, ""), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, x := range (Ops{}).Conflicts(desired, []Rule{c.foreign}) {
				got = append(got, fmt.Sprintf("%s | %s | %s", x.ID, x.Foreign, x.Owner))
			}
			if diff := cmp.Diff(c.want, strings.Join(got, "\n")); diff != "" {
				t.Errorf("conflicts (-want +got):\n%s", diff)
			}
		})
	}
}
