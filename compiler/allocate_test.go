package compiler

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"plumb.internal/plumb/schema"
)

// unaddressed is a node with n pods that name no addresses.
func unaddressed(n int, cidrs ...string) *schema.Config {
	cfg := &schema.Config{
		Nodes: map[string]schema.Node{"edge-1": {PodCIDRs: cidrs}},
		Pods:  map[string]schema.Pod{},
	}
	for i := range n {
		cfg.Pods[fmt.Sprintf("pod-%d", i)] = schema.Pod{}
	}
	return cfg
}

// given returns what each pod is given, and fails on anything that a pod must not have.
func given(t *testing.T, cfg *schema.Config) map[string][]netip.Addr {
	t.Helper()
	c, err := Compile(cfg, "edge-1", acceptAll())
	if err != nil {
		t.Fatal(err)
	}
	holder := map[netip.Addr]string{}
	all := map[string][]netip.Addr{}
	for _, p := range c.Pods {
		all[p.Name] = p.Addresses
		for _, a := range p.Addresses {
			if holder[a] != "" {
				t.Errorf("%s is given to %s and %s", a, holder[a], p.Name)
			}
			holder[a] = p.Name
			var in *cidr
			for _, text := range cfg.Nodes["edge-1"].PodCIDRs {
				r, err := parseCIDR(text)
				if err != nil {
					t.Fatal(err)
				}
				if r.Contains(a) {
					in = r
				}
			}
			if in == nil || in.reserved(a) != "" {
				t.Errorf("%s must not be given to %s", a, p.Name)
			}
		}
	}
	return all
}

func TestGiveFillsRange(t *testing.T) {
	for _, test := range []struct {
		cidrs []string
		pods  int
		each  int
	}{
		{[]string{"10.0.0.0/24"}, 253, 1},
		{[]string{"10.0.0.0/30"}, 1, 1},
		{[]string{"10.0.0.128/25", "fd00::/120"}, 125, 2},
		{[]string{"10.0.0.0/28", "10.0.1.0/28"}, 26, 1}, // the second range takes what the first can't
		{[]string{"fd00::/64"}, 300, 1},
	} {
		all := given(t, unaddressed(test.pods, test.cidrs...))
		if len(all) != test.pods {
			t.Errorf("%v: %d pods, want %d", test.cidrs, len(all), test.pods)
		}
		for pod, addrs := range all {
			if len(addrs) != test.each {
				t.Errorf("%v: %s is given %v", test.cidrs, pod, addrs)
			}
		}
	}
	_, err := Compile(unaddressed(254, "10.0.0.0/24"), "edge-1", acceptAll())
	if err == nil || !strings.Contains(err.Error(), "of its 254 pods, 1 find no free address") {
		t.Errorf("one pod too many: %v", err)
	}
}

// TestGiveIsStable takes every pod away in turn. Whoever then has another address must have met one that went or moved:
// its new address was that one's.
func TestGiveIsStable(t *testing.T) {
	const pods = 120
	cfg := unaddressed(pods, "10.0.0.0/24", "fd00:10::/64")
	before := given(t, cfg)
	moves := 0
	for name := range before {
		fewer := *cfg
		fewer.Pods = maps.Clone(cfg.Pods)
		delete(fewer.Pods, name)
		after := given(t, &fewer)
		left := map[netip.Addr]bool{}
		for pod, addrs := range before {
			if !slices.Equal(addrs, after[pod]) {
				left[addrs[0]] = true
			}
		}
		for pod, addrs := range after {
			if addrs[1] != before[pod][1] {
				t.Errorf("without %s, %s has another IPv6 address", name, pod)
			}
			if addrs[0] == before[pod][0] {
				continue
			}
			moves++
			if !left[addrs[0]] {
				t.Errorf("without %s, %s moves to %s, which nobody left", name, pod, addrs[0])
			}
		}
	}
	// At a load of one half most pods have their first wish; a scheme that renumbers moves thousands.
	if moves > pods {
		t.Errorf("%d moves in %d removals", moves, pods)
	}
}

// TestGiveYieldsToExplicit gives somebody's address to another pod by name.
func TestGiveYieldsToExplicit(t *testing.T) {
	cfg := unaddressed(20, "10.0.0.0/24")
	before := given(t, cfg)
	want := before["pod-7"][0]
	cfg.Pods["named"] = schema.Pod{Addresses: []string{want.String()}}
	after := given(t, cfg)
	if after["named"][0] != want || after["pod-7"][0] == want {
		t.Errorf("named has %v, pod-7 has %v", after["named"], after["pod-7"])
	}
	for pod, addrs := range before {
		if pod != "pod-7" && after[pod][0] != addrs[0] {
			t.Errorf("%s moves from %v to %v", pod, addrs, after[pod])
		}
	}
}

func TestAllocate(t *testing.T) {
	cfg := parse(t, `
		nodes: {a: podCIDRs: ["10.0.0.0/24", "fd00:10::/64"], b: podCIDRs: ["10.0.1.0/24"]}
		pods: {web: node: "a", "db-1": node: "b", own: {node: "b", addresses: ["10.0.1.9"]}}`)
	first, err := Allocate(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The file only constrains pods; for its values here they are made plain.
	values := func(file []byte) map[string]schema.Pod {
		t.Helper()
		return parse(t, strings.ReplaceAll(string(file), "?:", ":")).Pods
	}
	whole := func(cfg *schema.Config, file []byte) *schema.Config {
		t.Helper()
		merged := *cfg
		merged.Pods = maps.Clone(cfg.Pods)
		for name, p := range values(file) {
			p2 := merged.Pods[name]
			p2.Addresses = p.Addresses
			merged.Pods[name] = p2
		}
		return &merged
	}
	for _, want := range []string{"package plumb\n", "pods: {\n", "\tweb?: addresses: [\"10.0.0.", "\t\"db-1\"?: addresses: [\"10.0.1."} {
		if !strings.Contains(string(first), want) {
			t.Errorf("no %q in:\n%s", want, first)
		}
	}
	if strings.Contains(string(first), "own") {
		t.Errorf("a pod with addresses of its own is in:\n%s", first)
	}

	// The second time it holds the same, evaluated with the file or without it.
	for _, c := range []*schema.Config{cfg, whole(cfg, first)} {
		again, err := Allocate(c, first)
		if err != nil {
			t.Fatal(err)
		}
		if string(again) != string(first) {
			t.Errorf("the second time:\n%swant:\n%s", again, first)
		}
	}

	// What a person changed there stays; a pod that comes moves nobody; one that goes drops out.
	edited := strings.Replace(string(first), values(first)["web"].Addresses[0], "10.0.0.77", 1)
	more := *cfg
	more.Pods = maps.Clone(cfg.Pods)
	delete(more.Pods, "db-1")
	more.Pods["new"] = schema.Pod{Node: "a"}
	third, err := Allocate(&more, []byte(edited))
	if err != nil {
		t.Fatal(err)
	}
	got := values(third)
	if got["web"].Addresses[0] != "10.0.0.77" || len(got["new"].Addresses) != 2 || len(got) != 2 {
		t.Errorf("after a change:\n%s", third)
	}

	// An address that is outside the range by now is given anew.
	moved := *cfg
	moved.Nodes = map[string]schema.Node{"a": {PodCIDRs: []string{"10.9.0.0/24"}}, "b": cfg.Nodes["b"]}
	fourth, err := Allocate(whole(&moved, first), first)
	if err != nil {
		t.Fatal(err)
	}
	got = values(fourth)
	if a := got["web"].Addresses; len(a) != 1 || !strings.HasPrefix(a[0], "10.9.0.") {
		t.Errorf("after the range moved:\n%s", fourth)
	}
}
