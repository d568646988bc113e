package host

import (
	"net/netip"
	"testing"
)

func TestFirewalld(t *testing.T) {
	proc := map[string]string{"proc/7/comm": "firewalld\n", "proc/7/ns/net": "-> net:[42]"}
	pods := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00:10::/64")}
	const own = "usr/lib/firewalld/zones/trusted.xml"
	const edited = "etc/firewalld/zones/trusted.xml"
	for _, c := range []struct {
		name string
		add  map[string]string
		want [][]string
	}{
		{"as it comes", map[string]string{own: `<zone target="ACCEPT"><short>Trusted</short></zone>`}, [][]string{{
			"firewall-cmd --permanent --zone=trusted --add-source=10.0.0.0/24;", "--add-source=fd00:10::/64;", "firewall-cmd --reload"}}},
		{"trusted", map[string]string{own: `<zone target="ACCEPT"/>`,
			edited: `<zone target="ACCEPT"><source address="10.0.0.0/16"/><source address="fd00:10::/64"/></zone>`}, nil},
		{"in a zone that drops", map[string]string{"etc/firewalld/zones/drop.xml": `<zone target="DROP"><source address="10.0.0.0/16"/></zone>`,
			edited: `<zone target="ACCEPT"><source address="fd00:10::/64"/></zone>`}, [][]string{{"--add-source=10.0.0.0/24"}}},
		{"of a narrower range", map[string]string{edited: `<zone target="ACCEPT"><source address="10.0.0.0/25"/><source address="fd00::/16"/></zone>`},
			[][]string{{"--add-source=10.0.0.0/24"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for k, v := range proc {
				c.add[k] = v
			}
			s := surroundings{root: files(t, c.add), netns: 42, pods: pods}
			s.firewalld()
			expect(t, s.warnings, c.want...)
			elsewhere := surroundings{root: s.root, netns: 43, pods: pods}
			elsewhere.firewalld()
			expect(t, elsewhere.warnings)
		})
	}
}
