package vmtest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// unpack reads a cpio archive of the form that Write writes, strictly by its published format.
func unpack(t *testing.T, archive []byte) (names []string, files map[string]string) {
	t.Helper()
	files = map[string]string{}
	at := 0
	take := func(n int) []byte {
		if at+n > len(archive) {
			t.Fatalf("archive ends at %d, %d more expected", len(archive), at+n-len(archive))
		}
		at += n
		return archive[at-n : at]
	}
	for {
		header := take(110)
		field := func(i int) int {
			v, err := strconv.ParseInt(string(header[6+8*i:14+8*i]), 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			return int(v)
		}
		if string(header[:6]) != "070701" {
			t.Fatalf("entry begins with %q", header[:6])
		}
		name := string(bytes.TrimSuffix(take(field(11)), []byte{0}))
		at = (at + 3) &^ 3
		data := string(take(field(6)))
		at = (at + 3) &^ 3
		if name == "TRAILER!!!" {
			return names, files
		}
		names = append(names, fmt.Sprintf("%o %s", field(1), name))
		files[name] = data
	}
}

func TestRootWrite(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"a/run.sh": "#!/bin/sh\n", "a/skipped/x": "x", "a/b/y": "yy"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r := &Root{files: map[string]file{}}
	r.PutBytes("/etc/deep/er/hosts", []byte("hosts"))
	if err := r.Put(filepath.Join(dir, "a"), "src", func(rel string) bool { return rel == "skipped" }); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := r.Write(&archive); err != nil {
		t.Fatal(err)
	}
	names, files := unpack(t, archive.Bytes())
	want := []string{
		"40755 etc", "40755 etc/deep", "40755 etc/deep/er", "100644 etc/deep/er/hosts",
		"40755 src", "40755 src/b", "100755 src/b/y", "100755 src/run.sh",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("entries (-want +got):\n%s", diff)
	}
	if files["src/b/y"] != "yy" || files["etc/deep/er/hosts"] != "hosts" {
		t.Errorf("contents are %q", files)
	}
}

func TestRootPutOfNothing(t *testing.T) {
	if err := NewRoot().Put(filepath.Join(t.TempDir(), "missing"), "x", nil); err == nil {
		t.Error("a missing file was packed without an error")
	}
	if err := NewRoot().PutProgram("no-such-program-anywhere"); err == nil {
		t.Error("a missing program was packed without an error")
	}
}

func TestModinfoNeeds(t *testing.T) {
	got := modinfoNeeds("license=GPL\x00depends=nf-tables,nf_conntrack\x00softdep=pre: crc32c post: other\x00depends=\x00name=x")
	if diff := cmp.Diff([]string{"nf-tables", "nf_conntrack", "crc32c", "other"}, got); diff != "" {
		t.Errorf("needs (-want +got):\n%s", diff)
	}
}

func events(t *testing.T, parts ...any) io.Reader {
	t.Helper()
	var b bytes.Buffer
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b.WriteString(p)
		case Event:
			if err := Report(&b, p); err != nil {
				t.Fatal(err)
			}
		}
	}
	return strings.NewReader(strings.ReplaceAll(b.String(), "\n", "\r\n")) // as a terminal writes it
}

func TestReadConsole(t *testing.T) {
	var live bytes.Buffer
	out, err := readConsole(events(t, "kernel words\n", Event{Up: 2.5},
		Event{Begin: "one"}, "first\nno end of line", Event{End: &End{TookMS: 12}},
		Event{Begin: "two"}, "@@vmtest is no event\n", Event{End: &End{Exit: 3}},
		Event{File: "f"}, Event{File: "f", Data: []byte("ab")}, Event{File: "f", Data: []byte("c\n")}, Event{File: "empty"},
		Event{Done: true}, "rebooting\n"), &live)
	if err != nil {
		t.Fatal(err)
	}
	want := []Result{
		{Name: "one", Output: []byte("first\nno end of line"), End: End{TookMS: 12}},
		{Name: "two", Output: []byte("@@vmtest is no event\n"), End: End{Exit: 3}},
	}
	for i := range out.Results {
		out.Results[i].Output = bytes.TrimLeft(out.Results[i].Output, "\n")
	}
	if diff := cmp.Diff(want, out.Results); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
	if out.Up != 2.5 || string(out.Files["f"]) != "abc\n" || len(out.Files) != 2 {
		t.Errorf("up %v, files %q", out.Up, out.Files)
	}
	if !strings.Contains(string(out.Noise), "kernel words") || !strings.Contains(live.String(), "first") {
		t.Errorf("noise %q, live %q", out.Noise, live.String())
	}
	if out.Results[0].OK() != true || out.Results[1].OK() != false {
		t.Error("OK doesn't follow the exit status")
	}
}

func TestReadConsoleOfBrokenMachines(t *testing.T) {
	for name, c := range map[string]struct {
		in   []any
		want string
	}{
		"panic before the job": {[]any{"Kernel panic - not syncing\n"}, "before its job did; its last words:\nKernel panic"},
		"panic in a step":      {[]any{Event{Up: 1}, Event{Begin: "one"}, "BUG: oops\n"}, "ended during one; its last words:\n"},
		"steps missing":        {[]any{Event{Up: 1}, Event{Begin: "one"}, Event{End: &End{}}}, "before its job did"},
		"no setup":             {[]any{Event{Broken: "mount /proc: no such device"}}, "set up guest: mount /proc"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := readConsole(events(t, c.in...), nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, expected %q", err, c.want)
			}
		})
	}
}

func TestSkips(t *testing.T) {
	got := Skips(`=== RUN   TestA
    a_test.go:3: creating an ipvlan in l2 mode: operation not supported
--- SKIP: TestA (0.00s)
=== RUN   TestB
=== RUN   TestB/sub
    b_test.go:9: no netkit here
=== RUN   TestB/other
    b_test.go:12: said meanwhile
--- PASS: TestB (0.00s)
    --- PASS: TestB/other (0.00s)
    --- SKIP: TestB/sub (0.00s)
`)
	want := []Skip{{"TestA", "a_test.go:3: creating an ipvlan in l2 mode: operation not supported"}, {"TestB/sub", "b_test.go:9: no netkit here"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("skips (-want +got):\n%s", diff)
	}
}

func TestSummarize(t *testing.T) {
	o := &Outcome{Results: []Result{
		{Name: "good", Output: []byte("quiet\n"), End: End{TookMS: 1500}},
		{Name: "bad", Output: []byte("loud\n"), End: End{Exit: 1, TookMS: 20}},
	}}
	var out bytes.Buffer
	o.Summarize(&out, "6.1-amd64")
	want := "ok    6.1-amd64  good  1.5s\nloud\n\nFAIL  6.1-amd64  bad  20ms  exit 1 \n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
}

func TestTotals(t *testing.T) {
	o := &Outcome{Results: []Result{
		{Name: "good", Output: []byte("=== RUN   TestA\n--- PASS: TestA (0.00s)\n    --- PASS: TestA/one (0.00s)\n    --- SKIP: TestA/two (0.00s)\n")},
		{Name: "bad", Output: []byte("--- FAIL: TestB (0.00s)\n--- PASS: TestC (0.00s)\n"), End: End{Exit: 1}},
	}}
	if diff := cmp.Diff(Totals{OK: 1, Failed: 2, Passed: 3, Skipped: 1}, o.Totals(3)); diff != "" {
		t.Errorf("of three steps, the last never reached (-want +got):\n%s", diff)
	}
}

func TestOpenKernelWithoutImage(t *testing.T) {
	for _, name := range []string{"6.1-amd64", "nodash"} {
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenKernel(dir); err == nil || !strings.Contains(err.Error(), "open kernel "+name) {
			t.Errorf("error is %v", err)
		}
	}
}
