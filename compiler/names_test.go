package compiler

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"plumb.internal/plumb/schema"
)

func TestNames(t *testing.T) {
	n := &node{name: "edge-1", Node: schema.Node{Uplinks: []string{"pl-uplink"}}}
	s := newNames(n, 0)
	for _, test := range []struct{ prefix, name, want string }{
		{pairHost, "web", `^pl-web$`},
		{pairHost, "elevenchars", `^pl-elevenchars$`},
		{pairHost, "twelve-chars", `^pl-twelv-[0-9a-f]{6}$`},
		{pairHost, strings.Repeat("x", 63), `^pl-xxxxx-[0-9a-f]{6}$`},
		{pairHost, "uplink", `^pl-uplin-[0-9a-f]{6}$`}, // the uplink has that name
		{detourHost, "tencharact", `^pl3-tencharact$`},
		{detourHost, "eleven-char", `^pl3-elev-[0-9a-f]{6}$`},
		{macvlanHost, "enp0s31f6.4094", `^plm-enp0-[0-9a-f]{6}$`},
	} {
		if got := s.dev(test.prefix, test.name); !regexp.MustCompile(test.want).MatchString(got) {
			t.Errorf("dev(%q, %q) = %q, want %s", test.prefix, test.name, got, test.want)
		}
	}
}

// TestNamesStayApart makes so many alike names that hashes of 24 bits must meet.
func TestNamesStayApart(t *testing.T) {
	s := newNames(&node{name: "edge-1"}, 0)
	seen := map[string]bool{}
	for i := range 20000 {
		dev := s.dev(pairHost, fmt.Sprintf("replica-of-something-%d", i))
		if seen[dev] || len(dev) > maxDevName {
			t.Fatalf("dev %q", dev)
		}
		seen[dev] = true
	}
	mac := s.mac("web", "pod")
	if !regexp.MustCompile(`^02(:[0-9a-f]{2}){5}$`).MatchString(mac) {
		t.Errorf("mac %q", mac)
	}
	if again := s.mac("web", "pod"); again == mac {
		t.Errorf("two ends have one mac, %q", again)
	}
	if other := newNames(&node{name: "edge-2"}, 0).mac("web", "pod"); other == mac {
		t.Errorf("two nodes have one mac, %q", mac)
	}
	if a := s.linkLocal("web", "eth0"); !a.IsLinkLocalUnicast() || a == s.linkLocal("web", "eth1") {
		t.Errorf("link-local %s", a)
	}
}

func TestSelectNode(t *testing.T) {
	two := &schema.Config{Nodes: map[string]schema.Node{"a": {}, "b": {}}}
	one := &schema.Config{Nodes: map[string]schema.Node{"a": {}}}
	for _, test := range []struct {
		cfg        *schema.Config
		flag, host string
		want, err  string
	}{
		{two, "b", "a", "b", ""},
		{two, "", "a", "a", ""},
		{two, "", "b.example.org", "b", ""},
		{one, "", "other", "a", ""},
		{two, "", "other", "", `this host, "other", isn't a node; choose one with --node; the nodes are a, b`},
		{one, "b", "a", "", `no node is named "b"; the nodes are a`},
		{&schema.Config{}, "", "a", "", "no node is declared"},
	} {
		got, err := SelectNode(test.cfg, test.flag, test.host)
		if got != test.want || (err == nil) != (test.err == "") || (err != nil && !strings.Contains(err.Error(), test.err)) {
			t.Errorf("SelectNode(%q, %q) = %q, %v; want %q, %q", test.flag, test.host, got, err, test.want, test.err)
		}
	}
}
