package plumb

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

const module = "plumb.internal/plumb/"

// mayImport says which of our packages the package in folder from may import in code that isn't a test. It is the
// import direction of the architecture: cmd → compiler, reconciler → kinds → resource → features.
func mayImport(from, to string) bool {
	within := func(dir string, roots ...string) bool {
		for _, r := range roots {
			if dir == r || strings.HasPrefix(dir, r+"/") {
				return true
			}
		}
		return false
	}
	kind := path.Dir(from) == "reconciler/resource"
	switch {
	case from == "schema":
		return false
	case from == "bpf": // kinds, and the compiler, know the maps by it
		return to == "internal/memlock"
	case within(from, "reconciler/features"):
		return within(to, "internal")
	case from == "reconciler/resource":
		return to == "reconciler/features"
	case kind:
		return to == "reconciler/resource" || within(to, "reconciler/features", "bpf", "internal")
	case within(from, "compiler"): // the sizes that it chooses follow from the maps' layout
		return to == "bpf" || within(to, "schema", "reconciler/resource", "reconciler/features")
	case from == "reconciler":
		return within(to, "reconciler/resource", "reconciler/features", "bpf", "internal")
	case from == "internal/host", from == "internal/netns":
		return to == "reconciler/resource" || within(to, "internal", "reconciler/features")
	}
	return true // cmd, and what only tests and benchmarks use
}

func TestImportDirection(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && p != "." || d.Name() == "testdata" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		from := filepath.ToSlash(filepath.Dir(p))
		for _, i := range f.Imports {
			to, ours := strings.CutPrefix(strings.Trim(i.Path.Value, `"`), module)
			if !ours {
				continue
			}
			seen++
			if !mayImport(from, to) {
				t.Errorf("%s imports %s: not in the direction of the architecture", p, to)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen == 0 {
		t.Fatal("no import of ours seen: is the test run from the module's root?")
	}
}

func TestImportDirectionRefuses(t *testing.T) {
	for _, c := range [][2]string{
		{"schema", "reconciler/features"},
		{"compiler", "reconciler"},
		{"compiler", "internal/host"},
		{"reconciler", "compiler"},
		{"reconciler/resource", "reconciler/resource/link"},
		{"reconciler/resource/route", "reconciler/resource/link"},
		{"reconciler/resource/route", "reconciler"},
		{"reconciler/features", "reconciler/resource"},
		{"bpf", "reconciler/features"},
		{"bpf", "internal/host"},
	} {
		if mayImport(c[0], c[1]) {
			t.Errorf("%s may import %s", c[0], c[1])
		}
	}
}
