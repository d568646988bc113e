package compiler

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpflink"
	"plumb.internal/plumb/reconciler/resource/bpfmap"
	"plumb.internal/plumb/reconciler/resource/bpfprog"
	"plumb.internal/plumb/schema"
)

// served is a node with a pod of one attachment, and one service.
func served(way, attach string) *schema.Config {
	return &schema.Config{
		Nodes:    map[string]schema.Node{"n": {Uplinks: []string{"eth0"}, PodCIDRs: []string{"10.0.0.0/24"}}},
		Pods:     map[string]schema.Pod{"p": {Attach: attach}},
		Services: map[string]schema.Service{"s": {Addresses: []string{"10.96.0.1"}, Ports: map[string]schema.Port{"p": {Port: 80}}, Backends: []schema.Backend{{Pod: "p"}}}},
		Routing:  schema.Routing{Services: way},
	}
}

// shape sums up the programs of a node: object, where, how.
func shape(c *Compiled) string {
	lines := map[string][]string{}
	for _, id := range c.State.IDs() {
		switch r := c.State[id].(type) {
		case bpflink.Attachment:
			p := c.State[r.Program].(bpfprog.Program)
			dev := r.Dev
			if dev == "" {
				dev = "cgroup"
			} else if r.NetNS != "" {
				dev = r.NetNS + "/" + dev
			}
			at := fmt.Sprintf("%s by %s: %s", dev, r.Way, p.Object)
			if r.Dev == "" {
				lines[at] = append(lines[at], p.Base)
			} else {
				lines[at] = append(lines[at], fmt.Sprintf("%s %s %v", r.Hook, p.Base, p.Settings))
			}
		}
	}
	var b strings.Builder
	for _, at := range slices.Sorted(maps.Keys(lines)) {
		fmt.Fprintf(&b, "      %s: %s\n", at, strings.Join(lines[at], ", "))
	}
	return b.String()
}

// TestWaysOnRecordedKernels prints how each kernel that was recorded carries services, and what is attached for that.
func TestWaysOnRecordedKernels(t *testing.T) {
	files, err := filepath.Glob("../testdata/features/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no features are recorded: %v", err)
	}
	var b strings.Builder
	for _, file := range files {
		set, err := features.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\n", strings.TrimSuffix(filepath.Base(file), ".json"))
		for _, way := range []string{"auto", "socket", "packet", "nftables"} {
			fmt.Fprintf(&b, "  %s\n", way)
			c, err := Compile(served(way, "veth"), "n", set)
			if err != nil {
				text := err.Error()
				fmt.Fprintf(&b, "    no: %s\n", strings.TrimSpace(text[strings.Index(text, "* ")+2:]))
				continue
			}
			for _, ch := range c.Choices {
				if ch.Subject == "routing.services" {
					fmt.Fprintf(&b, "    %s -> %s: %s\n", ch.Subject, ch.Chosen, ch.Reason)
				}
			}
			for _, w := range c.Warnings {
				fmt.Fprintf(&b, "    warning: %s\n", w)
			}
			b.WriteString(shape(c))
		}
	}
	b.WriteString("all features, by attachment\n")
	for _, attach := range []string{"veth", "netkit", "bridge", "macvlan", "ipvlan-l2", "ipvlan-l3"} {
		c, err := Compile(served("auto", attach), "n", acceptAll())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "  %s\n%s", attach, shape(c))
	}
	golden(t, "testdata/compile/ways.txt", b.String())
}

// golden compares with a file, or writes it.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("(-golden +got):\n%s", d)
	}
}

// TestMapSizes says how large the maps are on machines of different memory.
func TestMapSizes(t *testing.T) {
	var b strings.Builder
	for _, gib := range []float64{0, 0.25, 1, 2, 4, 8, 32, 256, 2048} {
		set := acceptAll()
		if gib > 0 {
			set.Host = &features.HostFacts{MemoryBytes: int64(gib * (1 << 30)), Devices: map[string]features.Device{"eth0": {MTU: 1500}}}
		}
		c, err := Compile(served("auto", "macvlan"), "n", set)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%g GiB\n", gib)
		for _, id := range c.State.IDs() {
			if m, ok := c.State[id].(bpfmap.Map); ok && sized(m.Base) {
				fmt.Fprintf(&b, "  %s\n", resource.Describe(m))
			}
		}
	}
	golden(t, "testdata/compile/map-sizes.txt", b.String())
}

// sized reports whether a map's size follows the machine or the settings.
func sized(base string) bool {
	for _, m := range learntMaps {
		if m.base == base {
			return true
		}
	}
	for _, m := range declaredMaps {
		if m.base == base {
			return true
		}
	}
	return false
}

// TestMapSizesAreCoarse adds services with Maglev tables one by one: seldom does one resize the array of tables.
func TestMapSizesAreCoarse(t *testing.T) {
	sizes := map[int]bool{}
	for n := range 10_000 {
		s := tablesFor(n)
		if s < n+spareTables {
			t.Fatalf("%d tables have room in %d", n, s)
		}
		sizes[s] = true
	}
	if len(sizes) > 70 {
		t.Errorf("10000 services resize the array %d times", len(sizes))
	}
	for n := 1; n < 1<<20; n = n*9/8 + 1 {
		if d := roundDown(n); d > n || d < n*7/8 {
			t.Errorf("%d is rounded down to %d", n, d)
		}
	}
}

// TestIDsCollide makes the hash of ids a bad one.
func TestIDsCollide(t *testing.T) {
	cfg := served("auto", "veth")
	s := cfg.Services["s"]
	s.Addresses = append(s.Addresses, "10.96.0.2")
	s.Backends = append(s.Backends, schema.Backend{Address: "192.0.2.1"})
	cfg.Services["s"] = s
	f := readFleet(cfg)
	b := newBuilder(f, f.nodes[0], acceptAll())
	b.settle()
	if err := f.err(); err != nil {
		t.Fatal(err)
	}
	b.checkIDs(func(_ netip.Addr, port uint16, _ string) uint64 { return uint64(port) })
	err := f.err()
	for _, want := range []string{"10.96.0.1:80/TCP and 10.96.0.2:80/TCP have one id", ":80/TCP and 192.0.2.1:80/TCP have one id"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

// On a node without IPv6, services have their IPv4 addresses alone, and a warning names the others.
func TestServicesWithoutIPv6(t *testing.T) {
	set, err := features.ReadFile("../testdata/features/6.12-amd64.json")
	if err != nil {
		t.Fatal(err)
	}
	no := false
	set.Features = maps.Clone(set.Features)
	set.Features[features.IPv6] = features.Status{Supported: &no, Reason: "it is switched off"}
	cfg := served("auto", "veth")
	s := cfg.Services["s"]
	s.Addresses = append(s.Addresses, "fd00:96::1")
	s.Backends = append(s.Backends, schema.Backend{Address: "fd00:1::1"})
	cfg.Services["s"] = s
	for _, way := range []string{"auto", "nftables"} {
		cfg.Routing.Services = way
		c, err := Compile(cfg, "n", set)
		if err != nil {
			t.Fatal(err)
		}
		carried := map[resource.FrontendKey]bool{}
		for _, r := range c.State {
			if r, ok := r.(resource.Carrier); ok {
				for key := range r.Carries() {
					carried[key] = true
				}
			}
		}
		want := map[resource.FrontendKey]bool{{At: netip.MustParseAddrPort("10.96.0.1:80"), Protocol: "TCP"}: true}
		if !maps.Equal(carried, want) {
			t.Errorf("%s carries %v", way, carried)
		}
		if !slices.ContainsFunc(c.Warnings, func(w string) bool {
			return strings.Contains(w, "services.s.addresses[1] (fd00:96::1)") && strings.Contains(w, "it is switched off")
		}) {
			t.Errorf("%s warns %q", way, c.Warnings)
		}
	}
}
