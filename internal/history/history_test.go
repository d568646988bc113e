package history

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/schema"
)

func config(mtu int) *schema.Config {
	weight := 0
	return &schema.Config{
		Nodes:    map[string]schema.Node{"edge-1": {PodCIDRs: []string{"10.0.0.0/24"}}},
		Pods:     map[string]schema.Pod{"web": {MTU: mtu}},
		Services: map[string]schema.Service{"s": {Backends: []schema.Backend{{Pod: "web", Weight: &weight}}}},
		Tuning:   schema.Tuning{Maps: schema.Maps{Ratio: 0.0025}},
		Checks:   map[string]schema.Check{"c": {To: schema.Endpoint{Address: "10.0.0.1", Port: 80}, From: schema.Endpoint{Port: "http"}}},
	}
}

func add(t *testing.T, dir string, cfg *schema.Config) *Revision {
	t.Helper()
	r, err := New(cfg, t.TempDir(), resource.Summary{Create: 2, Delete: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(dir, "edge-1", r); err != nil {
		t.Fatal(err)
	}
	return r
}

// What is written is read again, to the last value: a rollback compiles it.
func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	if r, err := Last(dir, "edge-1"); r != nil || err != nil {
		t.Fatalf("of a node without history: %v, %v", r, err)
	}
	want := add(t, dir, config(1400))
	if want.Revision != 1 || want.Digest == "" {
		t.Errorf("revision %d, digest %q", want.Revision, want.Digest)
	}
	got, err := Last(dir, "edge-1")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("read another one than was written (-want +got):\n%s", d)
	}
	if again, err := Digest(got.Config); err != nil || again != want.Digest {
		t.Errorf("digest %q after reading, %q before: %v", again, want.Digest, err)
	}
	if _, err := Get(dir, "edge-1", 2); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a revision that isn't there: %v", err)
	}
	files, err := os.ReadDir(Dir(dir, "edge-1"))
	if err != nil || len(files) != 1 || files[0].Name() != "000001.json.gz" {
		t.Errorf("files %v, %v", files, err)
	}
	if text := got.Text(); text != "2 created, 1 deleted" {
		t.Errorf("text %q", text)
	}
}

// Only what is new makes a revision: the same configuration again doesn't, nor a removal where nothing was.
func TestAdds(t *testing.T) {
	one, err := New(config(1), "", resource.Summary{})
	if err != nil {
		t.Fatal(err)
	}
	two, err := New(config(2), "", resource.Summary{Update: 1})
	if err != nil {
		t.Fatal(err)
	}
	same, err := New(config(1), "", resource.Summary{Update: 9})
	if err != nil {
		t.Fatal(err)
	}
	gone, err := New(nil, "", resource.Summary{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		r, last *Revision
		adds    bool
	}{{one, nil, true}, {gone, nil, false}, {same, one, false}, {two, one, true}, {gone, one, true}, {gone, gone, false}, {one, gone, true}} {
		if c.r.Adds(c.last) != c.adds {
			t.Errorf("%v after %v: adds %t", c.r, c.last, !c.adds)
		}
	}
}

// Fifty are kept, the numbers go on, and the newest comes first.
func TestKeeps(t *testing.T) {
	dir := t.TempDir()
	for i := range most + 3 {
		add(t, dir, config(i+1))
	}
	all, err := List(dir, "edge-1")
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != most || all[0].Revision != most+3 || all[most-1].Revision != 4 || all[0].Config != nil {
		t.Errorf("%d revisions from %d to %d", len(all), all[0].Revision, all[len(all)-1].Revision)
	}
}

// A file that is torn or empty isn't the last good state, the one before it is; and it is named.
func TestDamaged(t *testing.T) {
	dir := t.TempDir()
	add(t, dir, config(1))
	add(t, dir, config(2))
	path := file(dir, "edge-1", 2)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Last(dir, "edge-1")
		if r == nil || r.Revision != 1 {
			t.Fatalf("cut off after %d bytes: the last one is %v", n, r)
		}
		if err == nil || !strings.Contains(err.Error(), path) {
			t.Fatalf("cut off after %d bytes: %v", n, err)
		}
	}
	if err := os.WriteFile(filepath.Join(Dir(dir, "edge-1"), ".new-123"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if next := add(t, dir, config(3)); next.Revision != 3 {
		t.Errorf("the next one is %d", next.Revision)
	}
}

const (
	short = "0123456789abcdef0123456789abcdef01234567"
	long  = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
)

// The commit is found in every way that git keeps it, and no other file is ever taken for one.
func TestCommit(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"none":       {map[string]string{"x": ""}, ""},
		"detached":   {map[string]string{".git/HEAD": short + "\n"}, short},
		"branch":     {map[string]string{".git/HEAD": "ref: refs/heads/main\n", ".git/refs/heads/main": long + "\n"}, long},
		"packed":     {map[string]string{".git/HEAD": "ref: refs/heads/a/b\n", ".git/packed-refs": "# pack-refs\n" + short + " refs/heads/a/b\n^" + long + "\n"}, short},
		"work tree":  {map[string]string{".git": "gitdir: main/.git/worktrees/w\n", "main/.git/worktrees/w/HEAD": "ref: refs/heads/w\n", "main/.git/worktrees/w/commondir": "../..\n", "main/.git/refs/heads/w": short}, short},
		"unborn":     {map[string]string{".git/HEAD": "ref: refs/heads/main\n"}, ""},
		"outside":    {map[string]string{".git/HEAD": "ref: refs/../../secret\n", "secret": short}, ""},
		"not a hash": {map[string]string{".git/HEAD": "root:x:0:0\n"}, ""},
		"circle":     {map[string]string{".git/HEAD": "ref: refs/heads/a\n", ".git/refs/heads/a": "ref: refs/heads/a\n"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for path, text := range c.files {
				path = filepath.Join(dir, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			below := filepath.Join(dir, "hosts", "edge")
			if err := os.MkdirAll(below, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, at := range []string{dir, below} {
				if got := Commit(at); got != c.want {
					t.Errorf("%s: commit %q, want %q", at, got, c.want)
				}
			}
		})
	}
}

// A name goes to a terminal as it is.
func TestUser(t *testing.T) {
	t.Setenv("SUDO_USER", "ada")
	if u := User(); u != "ada" {
		t.Errorf("user %q", u)
	}
	if u := cleanName("a\x1b[2Jb\n"); u != "a[2Jb" {
		t.Errorf("name %q", fmt.Sprintf("%q", u))
	}
	if u := userName("0"); u != "root" {
		t.Errorf("user 0 is %q", u)
	}
}
