package compiler

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-multierror"

	"plumb.internal/plumb/schema"
)

func TestMain(m *testing.M) {
	if RunEvaluator() {
		return
	}
	if dir := os.Getenv("PLUMB_TEST_PARENT"); dir != "" {
		loadAndHang(dir)
		return
	}
	os.Exit(m.Run())
}

// write makes a repository of files.
func write(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		writeFile(t, filepath.Join(dir, name), []byte(text))
	}
	return dir
}

// TestLoad loads what CUE offers: each repository says the same as the first.
func TestLoad(t *testing.T) {
	want := &schema.Config{
		Pods: map[string]schema.Pod{
			"web": {Attach: "veth", Addresses: []string{"10.0.0.1"}, MTU: 1500, Labels: map[string]string{"app": "web"}},
			"db":  {Attach: "veth", Addresses: []string{"10.0.0.2"}, MTU: 1500, Labels: map[string]string{"app": "db"}},
		},
		Routing: schema.Routing{Mode: "native"},
	}
	cases := []struct {
		name  string
		sub   string
		tags  []string
		files map[string]string
	}{
		{name: "literal", files: map[string]string{"a.cue": `package plumb

pods: {
	web: {attach: "veth", addresses: ["10.0.0.1"], mtu: 1500, labels: app: "web"}
	db: {attach: "veth", addresses: ["10.0.0.2"], mtu: 1500, labels: app: "db"}
}
routing: mode: "native"
`}},
		{name: "files", files: map[string]string{
			"a.cue": "package plumb\n\npods: web: {attach: \"veth\", mtu: 1500}\npods: db: {attach: \"veth\", addresses: [\"10.0.0.2\"], mtu: 1500, labels: app: \"db\"}\n",
			"b.cue": "package plumb\n\npods: web: addresses: [\"10.0.0.1\"]\npods: \"web\": labels: app: \"web\"\nrouting: mode: \"native\"\n",
		}},
		{name: "template", files: map[string]string{
			"a.cue": "package plumb\n\npods: [Name=string]: {attach: \"veth\", mtu: 1500, labels: app: Name}\npods: web: addresses: [\"10.0.0.1\"]\npods: db: addresses: [\"10.0.0.2\"]\nrouting: mode: \"native\"\n",
		}},
		{name: "default", files: map[string]string{
			"a.cue": "package plumb\n\n#P: {attach: *\"veth\" | string, mtu: *1500 | int, ...}\npods: web: #P & {addresses: [\"10.0.0.1\"], labels: app: \"web\"}\npods: db: #P & {addresses: [\"10.0.0.2\"], labels: app: \"db\"}\nrouting: mode: *\"native\" | \"vxlan\"\n",
		}},
		{name: "comprehension", files: map[string]string{
			"a.cue": "package plumb\n\n_names: [\"web\", \"db\"]\npods: {for i, n in _names {(n): {attach: \"veth\", mtu: 1500, addresses: [\"10.0.0.\\(i+1)\"], labels: app: n}}}\nif true {routing: mode: \"native\"}\n",
		}},
		{name: "reference", files: map[string]string{
			"a.cue": "package plumb\n\npods: web: {attach: \"veth\", addresses: [\"10.0.0.1\"], mtu: 1500, labels: app: \"web\"}\npods: db: {attach: pods.web.attach, addresses: [\"10.0.0.2\"], mtu: pods.web.mtu, labels: app: \"db\"}\nlet m = \"native\"\nrouting: mode: m\n",
		}},
		{name: "tag", tags: []string{"attach=veth", "mtu=1500"}, files: map[string]string{
			"a.cue": "package plumb\n\n_a: string @tag(attach)\n_m: int @tag(mtu,type=int)\npods: web: {attach: _a, addresses: [\"10.0.0.1\"], mtu: _m, labels: app: \"web\"}\npods: db: {attach: _a, addresses: [\"10.0.0.2\"], mtu: _m, labels: app: \"db\"}\nrouting: mode: \"native\"\n",
		}},
		{name: "tag-file", tags: []string{"lab"}, files: map[string]string{
			"a.cue": "@if(lab)\n\npackage plumb\n\npods: web: {attach: \"veth\", addresses: [\"10.0.0.1\"], mtu: 1500, labels: app: \"web\"}\n",
			"b.cue": "package plumb\n\npods: db: {attach: \"veth\", addresses: [\"10.0.0.2\"], mtu: 1500, labels: app: \"db\"}\nrouting: mode: \"native\"\n",
			"c.cue": "@if(!lab)\n\npackage plumb\n\nrouting: mode: \"vxlan\"\n",
		}},
		{name: "embed", files: map[string]string{
			"a.cue":        "@extern(embed)\n\npackage plumb\n\npods: web: _ @embed(file=web.json)\npods: db: _ @embed(file=\"data/db.yaml\")\nrouting: mode: \"native\"\n",
			"web.json":     `{"attach": "veth", "addresses": ["10.0.0.1"], "mtu": 1500, "labels": {"app": "web"}}`,
			"data/db.yaml": "attach: veth\naddresses: [10.0.0.2]\nmtu: 1500\nlabels:\n  app: db\n",
		}},
		{name: "import", files: map[string]string{
			"a.cue":                 "package plumb\n\nimport (\n\t\"strings\"\n\t\"plumb.local/templates/small\"\n)\n\npods: web: small.#Pod & {addresses: [\"10.0.0.1\"], labels: app: strings.ToLower(\"WEB\")}\npods: db: small.#Pod & {addresses: [\"10.0.0.2\"], labels: app: \"db\"}\nrouting: mode: \"native\"\n",
			"templates/small/s.cue": "package small\n\nimport \"plumb.local/templates\"\n\n#Pod: templates.#Any & {mtu: 1500}\n",
			"templates/t.cue":       "package templates\n\n#Any: {attach: \"veth\", ...}\n",
		}},
		{name: "vendored-import", files: map[string]string{
			"cue.mod/module.cue":                  "module: \"example.org/net@v0\"\nlanguage: version: \"v0.15.0\"\n",
			"cue.mod/pkg/example.com/lib/lib.cue": "package lib\n\n#Pod: {attach: \"veth\", mtu: 1500, ...}\n",
			"own/own.cue":                         "package own\n\nmode: \"native\"\n",
			"a.cue":                               "package plumb\n\nimport (\n\t\"example.com/lib\"\n\t\"example.org/net/own\"\n)\n\npods: web: lib.#Pod & {addresses: [\"10.0.0.1\"], labels: app: \"web\"}\npods: db: lib.#Pod & {addresses: [\"10.0.0.2\"], labels: app: \"db\"}\nrouting: mode: own.mode\n",
		}},
		{name: "schema-import", files: map[string]string{
			"a.cue": "package plumb\n\nimport \"plumb.internal/schema\"\n\npods: web: schema.#Pod & {attach: \"veth\", addresses: [\"10.0.0.1\"], mtu: 1500, labels: app: \"web\"}\npods: db: schema.#Pod & {attach: \"veth\", addresses: [\"10.0.0.2\"], mtu: 1500, labels: app: \"db\"}\nrouting: mode: \"native\"\nschema.#Config\n",
		}},
		{name: "parent-folder", sub: "site/a", files: map[string]string{
			"cue.mod/module.cue": "module: \"example.org/net@v0\"\nlanguage: version: \"v0.15.0\"\n",
			"base.cue":           "package plumb\n\nrouting: mode: \"native\"\n",
			"tools.cue":          "package tools\n\nx: 1\n",
			"site/a/a.cue":       "package plumb\n\npods: web: {attach: \"veth\", addresses: [\"10.0.0.1\"], mtu: 1500, labels: app: \"web\"}\npods: db: {attach: \"veth\", addresses: [\"10.0.0.2\"], mtu: 1500, labels: app: \"db\"}\n",
			"site/b/b.cue":       "package plumb\n\npods: other: {}\n",
		}},
		{name: "bom-crlf", files: map[string]string{
			"a.cue": "\ufeffpackage plumb\r\n\r\npods: web: {attach: \"veth\", addresses: [\"10.0.0.1\"], mtu: 1500, labels: app: \"web\"}\r\npods: db: {attach: \"veth\", addresses: [\"10.0.0.2\"], mtu: 1500, labels: app: \"db\"}\r\nrouting: mode: \"native\"\r\n",
		}},
		{name: "initialised", files: initialised("package plumb\n\npods: web: {attach: \"veth\", addresses: [\"10.0.0.1\"], mtu: 1500, labels: app: \"web\"}\npods: db: {attach: \"veth\", addresses: [\"10.0.0.2\"], mtu: 1500, labels: app: \"db\"}\nrouting: {mode: \"na\" + \"tive\"}\n")},
		{name: "ignored-files", files: map[string]string{
			"a.cue":      "package plumb\n\npods: web: {attach: \"veth\", addresses: [\"10.0.0.1\"], mtu: 1500, labels: app: \"web\"}\npods: db: {attach: \"veth\", addresses: [\"10.0.0.2\"], mtu: 1500, labels: app: \"db\"}\nrouting: mode: \"native\"\n",
			"_b.cue":     "package other\n",
			"c_tool.cue": "package plumb\n\ncommand: {}\n",
			"d.txt":      "no CUE\n",
		}},
	}
	digest := ""
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s, err := Load(t.Context(), filepath.Join(write(t, c.files), c.sub), c.tags)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if diff := cmp.Diff(want, s.Config); diff != "" {
				t.Error(diff)
			}
			if digest == "" {
				digest = s.Digest
			}
			if s.Digest != digest || len(digest) != 64 {
				t.Errorf("digest %q, want %q", s.Digest, digest)
			}
		})
	}
	s, err := Load(t.Context(), write(t, map[string]string{"a.cue": "package plumb\n\npods: web: mtu: 1501\n"}), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.Digest == digest {
		t.Error("different configurations have one digest")
	}
}

// initialised is a repository as plumb init makes it, with one file of the user's.
func initialised(text string) map[string]string {
	files := map[string]string{"mine.cue": text}
	for name, b := range schema.Vendored() {
		files[name] = string(b)
	}
	return files
}

func TestLocate(t *testing.T) {
	dir := write(t, map[string]string{
		"a.cue": "package plumb\n\npods: web: addresses: [\"10.0.0.1\", \"10.0.0.2\"]\npods: \"db\": {\n\tmtu: 1500\n}\n",
		"b.cue": "package plumb\n\n_a: [\"10.0.0.1\"]\nfor n in [\"x\"] {\n\tpods: (n): addresses: _a\n}\nservices: s: selector: app: \"\\(1)\"\n",
	})
	for _, hoist := range []bool{true, false} {
		if !hoist { // an embedding at the top makes CUE evaluate it all
			writeFile(t, filepath.Join(dir, "c.cue"), []byte("package plumb\n\n{}\n"))
		} else if err := os.WriteFile(filepath.Join(dir, "b.cue"), []byte("package plumb\n\n_a: [\"10.0.0.1\"]\nservices: x: addresses: _a\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		s, err := Load(t.Context(), dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		p := []*Problem{
			{Path: "pods.web.addresses[1]", Other: "services.x.addresses[0]", Message: "given twice"},
			{Path: "pods.db.mtu", Message: "too large"},
			{Path: `pods."db".attach`, Message: "missing"},
			{Path: "tuning.mtu", Message: "nowhere"},
		}
		var merr *multierror.Error
		for _, p := range p {
			merr = multierror.Append(merr, p)
		}
		got := strings.ReplaceAll(s.Locate(merr).Error(), dir+"/", "")
		// Asking again is answered too.
		if again := s.Locate(merr); !errors.As(again, new(*multierror.Error)) {
			t.Error("Locate changes the type of the error")
		}
		s.Close()
		for i, want := range []string{"a.cue:3:36", "a.cue:5:", "a.cue:4:"} {
			if pos := strings.ReplaceAll(p[i].Pos, dir+"/", ""); !strings.HasPrefix(pos, want) {
				t.Errorf("hoist %v: %s is at %q, want %q", hoist, p[i].Path, pos, want)
			}
		}
		if !strings.HasPrefix(strings.ReplaceAll(p[0].OtherPos, dir+"/", ""), "b.cue:") || p[3].Pos != "" {
			t.Errorf("hoist %v: %+v, %+v", hoist, p[0], p[3])
		}
		if !strings.Contains(got, "a.cue:3:36: pods.web.addresses[1]: given twice (see b.cue:") {
			t.Errorf("hoist %v: got %s", hoist, got)
		}
	}
}

// loadAndHang is what the process does that TestChildDiesWithParent kills.
func loadAndHang(dir string) {
	s, err := Load(context.Background(), dir, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(s.child.cmd.Process.Pid)
	select {}
}

func TestChildDiesWithParent(t *testing.T) {
	dir := write(t, map[string]string{"a.cue": "package plumb\n"})
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "PLUMB_TEST_PARENT="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(status), "NoNewPrivs:\t1") {
		t.Error("the child may gain privileges")
	}
	for line := range strings.Lines(string(status)) {
		// CAP_DAC_READ_SEARCH is number 2.
		if v, ok := strings.CutPrefix(line, "CapEff:\t"); ok && v != "0000000000000000\n" && v != "0000000000000004\n" {
			t.Errorf("the child has the capabilities %s", v)
		}
	}
	if env, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ"); err != nil || len(env) > 0 {
		t.Errorf("the child's environment is %q, %v", env, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(5 * time.Second)
	for {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("the child %d outlives its parent", pid)
		}
	}
}

func TestCancel(t *testing.T) {
	dir := write(t, map[string]string{"a.cue": "package plumb\n\n_y: [" + strings.Repeat("1, ", 40) + "1]\n_x: [for a in _y for b in _y for c in _y for d in _y for e in _y for f in _y {a}]\npods: web: mtu: len(_x)\n"})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := Load(ctx, dir, nil); err == nil || !strings.Contains(err.Error(), "deadline") {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %v", took)
	}
}

// TestWire reads back what it writes, and survives damage.
func TestWire(t *testing.T) {
	one, zero := 1, 0
	yes := true
	want := schema.Config{
		Pods:     map[string]schema.Pod{"a": {MTU: 9000, Sysctls: map[string]string{"x": "1"}}, "b": {}},
		Services: map[string]schema.Service{"s": {Backends: []schema.Backend{{Pod: "a", Weight: &one}, {Address: "::1", Weight: &zero}}}},
		Routing:  schema.Routing{DirectNodeRoutes: &yes},
		Tuning:   schema.Tuning{Maps: schema.Maps{Ratio: 0.0025}},
		Checks:   map[string]schema.Check{"c": {To: schema.Endpoint{Port: "http"}, From: schema.Endpoint{Port: 80}}},
	}
	b := appendWire(nil, reflect.ValueOf(&want))
	var got schema.Config
	if err := readWire(b, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for i := range b {
		damaged := append([]byte(nil), b...)
		damaged[i] ^= 0xff
		_ = readWire(damaged, new(schema.Config))
		if err := readWire(b[:i], new(schema.Config)); err == nil {
			t.Errorf("cut after %d bytes: no error", i)
		}
	}
}

func readWire(b []byte, c *schema.Config) error {
	r := wireReader{b: string(b)}
	r.value(reflect.ValueOf(c).Elem())
	return r.err
}
