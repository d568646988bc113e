package compiler

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/schema"
)

// TestChoicesOnRecordedKernels prints what every attachment becomes on each kernel that was recorded: one table to read.
func TestChoicesOnRecordedKernels(t *testing.T) {
	files, err := filepath.Glob("../testdata/features/*.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no features are recorded")
	}
	var b strings.Builder
	for _, file := range files {
		set, err := features.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		set.Host = nil // the table is about kernels, not about the machine that was recorded
		fmt.Fprintf(&b, "%s\n", strings.TrimSuffix(filepath.Base(file), ".json"))
		for _, attach := range []string{"auto", "veth", "bridge", "macvlan", "ipvlan-l2", "ipvlan-l3", "netkit"} {
			cfg := &schema.Config{
				Nodes: map[string]schema.Node{"n": {Uplinks: []string{"eth0"}, PodCIDRs: []string{"10.0.0.0/24", "fd00:10::/64"}}},
				Pods:  map[string]schema.Pod{"p": {Attach: attach}},
			}
			c, err := Compile(cfg, "n", set)
			switch {
			case err != nil:
				text := err.Error()
				fmt.Fprintf(&b, "  %-9s no: %s\n", attach, strings.TrimSpace(text[strings.Index(text, "* ")+2:]))
			case len(c.Choices) == 1:
				fmt.Fprintf(&b, "  %-9s -> %s: %s\n", attach, c.Choices[0].Chosen, c.Choices[0].Reason)
			default:
				fmt.Fprintf(&b, "  %-9s yes\n", attach)
			}
		}
	}
	const golden = "testdata/compile/choices.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("(-golden +got):\n%s", d)
	}
}
