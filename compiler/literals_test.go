package compiler

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
)

// TestLiteralsAgree edits repositories at random: whatever Literals remembers, it says what a cold evaluation says, and it
// leaves nothing to that but what isn't literal.
func TestLiteralsAgree(t *testing.T) {
	const repositories, edits = 60, 15
	t.Parallel()
	root := t.TempDir()
	var told, left atomic.Int64
	each(repositories, func(i int) {
		g := &generator{Rand: rand.New(rand.NewPCG(17, uint64(i))), wild: i%4 == 0}
		dir := filepath.Join(root, fmt.Sprint(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Error(err)
			return
		}
		var l Literals
		for range edits {
			n := g.IntN(4)
			path := filepath.Join(dir, fmt.Sprintf("%d.cue", n))
			switch g.IntN(16) {
			case 0:
				if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
				}
			case 1: // a file that another one is, too
				b, _ := os.ReadFile(path)
				writeFile(t, filepath.Join(dir, "copy.cue"), b)
			case 2:
				writeFile(t, path, []byte(g.one("", "package other\n", "package plumb\n", "package plumb\n\npods: {for n in [\"q\"] {(n): {}}}\n")))
			case 3: // with names that others have, too
				writeFile(t, path, []byte(g.file()))
			default:
				var b strings.Builder
				b.WriteString("package plumb\n")
				for range g.IntN(4) {
					field := g.one("nodes", "pods", "services", "checks")
					fmt.Fprintf(&b, "%s: \"n-%d-%d\": %s\n", field, n, g.IntN(50), g.value(configRule().fields[field].value))
				}
				writeFile(t, path, []byte(b.String()))
			}
			cold, wire, mistakes := evaluateHere(dir, false)
			config := l.Load(dir, nil)
			switch literal := len(mistakes) == 0 && !cold.hoisted.rest; {
			case config == nil && literal:
				t.Errorf("%s: literals are left to CUE", text(t, dir))
			case config == nil:
				left.Add(1)
			case !literal:
				t.Errorf("%s: these are no literals: %v", text(t, dir), mistakes)
			default:
				told.Add(1)
				if !bytes.Equal(appendWire(nil, reflect.ValueOf(*config)), wire) {
					t.Errorf("%s: it isn't what a cold evaluation says", text(t, dir))
				}
			}
		}
	})
	t.Logf("%d times told, %d left to CUE", told.Load(), left.Load())
	if told.Load() < repositories*edits/5 || left.Load() < repositories*edits/20 {
		t.Error("the cases prove too little")
	}
}

// text is all of a repository.
func text(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	names, err := filepath.Glob(filepath.Join(dir, "*.cue"))
	if err != nil {
		t.Error(err)
	}
	for _, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(&b, "-- %s --\n%s", filepath.Base(name), content)
	}
	return b.String()
}

// TestLiteralsLeave has what Literals leaves to the guarded child though all of it is valid.
func TestLiteralsLeave(t *testing.T) {
	const pods = "package plumb\n\npods: a: mtu: 1500\n"
	for name, c := range map[string]struct {
		files map[string]string
		tags  []string
		leave bool
	}{
		"literals":          {files: map[string]string{"a.cue": pods}},
		"the same twice":    {files: map[string]string{"a.cue": pods, "b.cue": pods}, leave: true},
		"in two parts":      {files: map[string]string{"a.cue": pods, "b.cue": "package plumb\n\npods: a?: attach: \"veth\"\n"}},
		"comprehension":     {files: map[string]string{"a.cue": pods, "b.cue": "package plumb\n\npods: {for n in [\"b\"] {(n): {}}}\n"}, leave: true},
		"tags":              {files: map[string]string{"a.cue": pods}, tags: []string{"x=y"}, leave: true},
		"too large for it":  {files: map[string]string{"a.cue": pods + strings.Repeat("// comment\n", maxLiterals/11)}, leave: true},
		"nothing":           {leave: true},
		"a comment":         {files: map[string]string{"a.cue": "package plumb\n// nothing\n"}},
		"above, and a test": {files: map[string]string{"../a.cue": pods, "x_test.cue": pods}, leave: true},
	} {
		dir := filepath.Join(t.TempDir(), "d")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for file, content := range c.files {
			writeFile(t, filepath.Join(dir, file), []byte(content))
		}
		var l Literals
		for range 2 {
			if got := l.Load(dir, c.tags); (got == nil) != c.leave {
				t.Errorf("%s: %v", name, got)
			}
		}
	}
}

// TestLiteralsRemember forgets files that are gone, and holds no file's text.
func TestLiteralsRemember(t *testing.T) {
	dir := t.TempDir()
	var l Literals
	for i := range 5 {
		for f := range 3 {
			writeFile(t, filepath.Join(dir, fmt.Sprintf("%d.cue", f)), fmt.Appendf(nil, "package plumb\n\npods: %q: mtu: %d\n", fmt.Sprint("p", f), 1400+i))
		}
		if got := l.Load(dir, nil); got == nil || len(got.Pods) != 3 || len(l.seen) != 3 {
			t.Fatalf("edit %d: %v of %d files", i, got, len(l.seen))
		}
	}
}
