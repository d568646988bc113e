package schema_test

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"cuelang.org/go/cue"
	"cuelang.org/go/cue/cuecontext"

	"plumb.internal/plumb/schema"
)

func definitions(t *testing.T) cue.Value {
	t.Helper()
	v := cuecontext.New().CompileBytes(schema.Source())
	if err := v.Validate(); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestGoTypes walks the schema and the Go types together: what one has, the other has.
func TestGoTypes(t *testing.T) {
	sameFields(t, "", definitions(t).LookupPath(cue.ParsePath("#Config")), reflect.TypeFor[schema.Config]())
}

func sameFields(t *testing.T, path string, v cue.Value, typ reflect.Type) {
	t.Helper()
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	var kind cue.Kind
	switch typ.Kind() {
	case reflect.Struct:
		inCUE, inGo := map[string]cue.Value{}, map[string]reflect.Type{}
		it, err := v.Fields(cue.Optional(true))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for it.Next() {
			inCUE[it.Selector().Unquoted()] = it.Value()
		}
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			inGo[name] = typ.Field(i).Type
		}
		a, b := slices.Sorted(maps.Keys(inCUE)), slices.Sorted(maps.Keys(inGo))
		if !slices.Equal(a, b) {
			t.Errorf("%s: the schema has %v, its Go type %v", path, a, b)
		}
		for name, f := range inCUE {
			if ft, ok := inGo[name]; ok {
				sameFields(t, path+"."+name, f, ft)
			}
		}
		return
	case reflect.Map:
		var elem cue.Value
		for _, key := range []string{"a", "net.a"} { // a name, and a sysctl
			if filled := v.FillPath(cue.MakePath(cue.Str(key)), cuecontext.New().CompileString("_")); filled.Err() == nil {
				elem = filled.LookupPath(cue.MakePath(cue.Str(key)))
				break
			}
		}
		if !elem.Exists() {
			t.Errorf("%s: a map in Go, and nothing in the schema maps any key", path)
			return
		}
		sameFields(t, path+"[key]", elem, typ.Elem())
		return
	case reflect.Slice:
		sameFields(t, path+"[i]", v.LookupPath(cue.MakePath(cue.AnyIndex)), typ.Elem())
		return
	case reflect.String:
		kind = cue.StringKind
	case reflect.Int:
		kind = cue.IntKind
	case reflect.Bool:
		kind = cue.BoolKind
	case reflect.Float64:
		kind = cue.NumberKind
	case reflect.Interface:
		kind = cue.StringKind | cue.IntKind
	}
	if v.IncompleteKind() != kind {
		t.Errorf("%s: %v in the schema, %v in Go", path, v.IncompleteKind(), typ)
	}
}

// TestInjected holds the file that applies the schema against #Config.
func TestInjected(t *testing.T) {
	it, err := definitions(t).LookupPath(cue.ParsePath("#Config")).Fields(cue.Optional(true))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for it.Next() {
		name := it.Selector().Unquoted()
		names = append(names, name)
		if !strings.Contains(schema.Injected, "\n"+name+"?: ") {
			t.Errorf("the injected file has no %s", name)
		}
	}
	if !strings.Contains(schema.Injected, "^("+strings.Join(names, "|")+")$") {
		t.Errorf("the injected file refuses other fields than those besides %v", names)
	}
}

// TestVendored runs stock cue, offline, in a repository as plumb init makes it.
func TestVendored(t *testing.T) {
	dir := t.TempDir()
	for name, text := range schema.Vendored() {
		write(t, filepath.Join(dir, name), string(text))
	}
	write(t, filepath.Join(dir, "web.cue"), "package plumb\n\npods: web: mtu: 1500\n")
	if out, err := stockCUE(t, dir, "vet", "-c", "."); err != nil {
		t.Errorf("cue vet: %v\n%s", err, out)
	}
	if out, err := stockCUE(t, dir, "fmt", "--check", "./..."); err != nil {
		t.Errorf("cue fmt: %v\n%s", err, out)
	}
	if out, err := stockCUE(t, filepath.Join(dir, "cue.mod/pkg", schema.ImportPath), "fmt", "--check", "schema.cue"); err != nil {
		t.Errorf("cue fmt of the schema: %v\n%s", err, out)
	}
	write(t, filepath.Join(dir, "web.cue"), "package plumb\n\npods: web: mut: 1500\n")
	if out, err := stockCUE(t, dir, "vet", "-c", "."); err == nil || !strings.Contains(out, "pods.web.mut: field not allowed") {
		t.Errorf("cue vet of a mistake: %v\n%s", err, out)
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// stockCUE runs the cue command of go.mod with no registry to reach.
func stockCUE(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	tool, err := exec.Command("go", "tool", "-n", "cue").Output()
	if err != nil {
		t.Fatalf("go tool -n cue: %v", err)
	}
	cmd := exec.Command(strings.TrimSpace(string(tool)), args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CUE_REGISTRY=none", "CUE_CACHE_DIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	return string(out), err
}
