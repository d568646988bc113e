package compiler

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"cuelang.org/go/cue/cuecontext"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/schema"
)

// parse evaluates CUE without a schema: the loader has tests of its own.
func parse(t testing.TB, text string) *schema.Config {
	t.Helper()
	v := cuecontext.New().CompileString(text)
	data, err := v.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	cfg := &schema.Config{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(cfg); err != nil {
		t.Fatal(err)
	}
	return cfg
}

func acceptAll() *features.Set { return &features.Set{AcceptAll: true} }

// render prints what was compiled: the node's own objects first, then pod by pod, as `ip` prints them.
func render(c *Compiled) string {
	var b strings.Builder
	last := "-"
	ids := c.State.IDs()
	slices.SortStableFunc(ids, func(x, y resource.ID) int { return strings.Compare(owner(x), owner(y)) })
	for _, id := range ids {
		if o := owner(id); o != last {
			last = o
			if o == "" {
				o = "root"
			}
			fmt.Fprintf(&b, "%s:\n", o)
		}
		r := c.State[id]
		// What programs are compiled to is no business of these files.
		line := programHash.ReplaceAllString(resource.Describe(r), "$1.HASH")
		fmt.Fprintf(&b, "  %s  # %s\n", line, r.Origin())
	}
	for _, p := range c.Pods {
		fmt.Fprintf(&b, "view: %s %s %s %v host %s at %s\n", p.Name, p.Attach, p.Interface, p.Addresses, p.HostDev, p.NetNSPath)
	}
	for _, ch := range c.Choices {
		fmt.Fprintf(&b, "choice: %s: %s -> %s: %s\n", ch.Subject, ch.Wanted, ch.Chosen, ch.Reason)
	}
	for _, k := range c.Checks {
		fmt.Fprintf(&b, "check: %s: %s, %s %v%s", k.Name, k, k.Type, k.Targets, k.Host)
		if k.Unreachable {
			b.WriteString(" unreachable")
		}
		fmt.Fprintf(&b, " %s needs %v\n", k.Within, k.Needs)
	}
	for _, h := range c.Health {
		fmt.Fprintf(&b, "health: %s %s%s every %s for %s, %d failures, %d successes: %s\n", h.At, h.Type, h.Path, h.Interval, h.Timeout,
			h.Failures, h.Successes, strings.Trim(fmt.Sprint(h.Backends), "[]"))
	}
	for _, w := range c.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", w)
	}
	return b.String()
}

var programHash = regexp.MustCompile(`(\w)\.[0-9a-f]{12}\b`)

func owner(id resource.ID) string {
	if id.Kind == "netns" {
		return id.Name
	}
	return id.NetNS
}

// TestCompile compares with the goldens: testdata/compile/*.txtar hold config.cue, perhaps features.json (default: every
// feature), and for each node or for the errors what must come out.
func TestCompile(t *testing.T) {
	files, err := filepath.Glob("testdata/compile/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			in := map[string][]byte{}
			for _, f := range ar.Files {
				in[f.Name] = f.Data
			}
			set := acceptAll()
			if data, ok := in["features.json"]; ok {
				set = &features.Set{}
				if err := json.Unmarshal(data, set); err != nil {
					t.Fatal(err)
				}
			}
			out := &txtar.Archive{Comment: ar.Comment}
			for _, f := range ar.Files {
				if f.Name == "config.cue" || f.Name == "features.json" {
					out.Files = append(out.Files, f)
				}
			}
			cfg := parse(t, string(in["config.cue"]))
			nodes := []string{"none"}
			if len(cfg.Nodes) > 0 {
				nodes = sortedNodes(cfg)
			}
			for _, node := range nodes {
				var got string
				if c, err := Compile(cfg, node, set); err != nil {
					got = err.Error()
				} else {
					got = render(c)
				}
				got = strings.TrimRight(got, "\n") + "\n"
				name := node + ".txt"
				out.Files = append(out.Files, txtar.File{Name: name, Data: []byte(got)})
				if !*update {
					if d := cmp.Diff(string(in[name]), got); d != "" {
						t.Errorf("node %s (-golden +got):\n%s", node, d)
					}
				}
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(out), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if len(out.Files) != len(ar.Files) {
				t.Errorf("the file holds %d parts, the test makes %d; run with -update", len(ar.Files), len(out.Files))
			}
		})
	}
}

func sortedNodes(cfg *schema.Config) []string {
	var names []string
	for n := range cfg.Nodes {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// TestCompileIsDeterministic compiles everything twenty times: the order of maps must not show.
func TestCompileIsDeterministic(t *testing.T) {
	for _, file := range []string{"mixed", "given", "adopted", "error-pods", "error-addresses"} {
		ar, err := txtar.ParseFile("testdata/compile/" + file + ".txtar")
		if err != nil {
			t.Fatal(err)
		}
		first := ""
		for i := range 20 {
			cfg := parse(t, string(ar.Files[0].Data))
			c, err := Compile(cfg, sortedNodes(cfg)[0], acceptAll())
			got := fmt.Sprint(err)
			if err == nil {
				got = render(c)
			}
			if i == 0 {
				first = got
			} else if d := cmp.Diff(first, got); d != "" {
				t.Fatalf("%s, time %d:\n%s", file, i+1, d)
			}
		}
	}
}

// TestCompileLeavesConfigAlone compiles twice from one value: defaults are merged into copies.
func TestCompileLeavesConfigAlone(t *testing.T) {
	ar, err := txtar.ParseFile("testdata/compile/defaults.txtar")
	if err != nil {
		t.Fatal(err)
	}
	cfg, want := parse(t, string(ar.Files[0].Data)), parse(t, string(ar.Files[0].Data))
	if _, err := Compile(cfg, "edge-1", acceptAll()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, cfg); d != "" {
		t.Error(d)
	}
}

// TestStateIsClosed says that whatever a resource names of ours is in the state: nothing waits for what never comes.
func TestStateIsClosed(t *testing.T) {
	files, err := filepath.Glob("testdata/compile/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		ar, err := txtar.ParseFile(file)
		if err != nil {
			t.Fatal(err)
		}
		cfg := parse(t, string(ar.Files[0].Data))
		for node := range cfg.Nodes {
			c, err := Compile(cfg, node, acceptAll())
			if err != nil {
				continue
			}
			for id, r := range c.State {
				for _, after := range append(r.After(), r.DiesWith()...) {
					uplink := after.NetNS == "" && slices.Contains(cfg.Nodes[node].Uplinks, after.Name)
					if _, ok := c.State[after]; !ok && !uplink {
						t.Errorf("%s: %s comes after %s, which isn't there", file, id, after)
					}
				}
			}
		}
	}
}
