package compiler

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"cuelang.org/go/cue"
	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/cuecontext"
	"cuelang.org/go/cue/load"
	"cuelang.org/go/cue/parser"
	"cuelang.org/go/cue/token"
	"cuelang.org/go/mod/modfile"
	"cuelang.org/go/mod/modregistry"
	"cuelang.org/go/mod/module"

	"plumb.internal/plumb/schema"
)

// injectedName is the file that applies the schema. It is never on disk, and its name sorts last.
const injectedName = "zz_plumb_schema.cue"

// evaluation is one package on its way from files to a configuration.
type evaluation struct {
	request
	reading func(cpu time.Duration) error // called once the package's own files are read

	reader   *reader
	root     string // of the CUE module
	files    []*sourceFile
	vendored []string // files that apply the schema, as plumb init writes one; it is applied anyway
	noHoist  bool     // for comparing: all of it in CUE
	terse    bool     // for comparing: what CUE says is enough
	hoisted  *hoisted
	sources  map[string]load.Source
	values   []cue.Value // what positions are looked up in
}

// sourceFile is one of the package's own files.
type sourceFile struct {
	name    string // absolute
	source  string
	syntax  *ast.File // nil if plainEntries read the file
	err     error
	entries []entry
	off     []string // fields of which no entry may be taken out
	opaque  bool     // nothing of the package may be taken out
}

// run evaluates the package and returns the wire form of its configuration or the mistakes in it.
func (e *evaluation) run() ([]byte, []Mistake) {
	for _, step := range []func() []Mistake{e.find, e.read, e.hoist} {
		if m := step(); len(m) > 0 {
			return nil, m
		}
	}
	config := new(schema.Config)
	if e.hoisted.rest || len(e.Tags) > 0 {
		v, m := e.build()
		if len(m) > 0 {
			return nil, m
		}
		e.values = []cue.Value{v}
		if err := decodeValue(reflect.ValueOf(config).Elem(), v); err != nil {
			return nil, []Mistake{{Message: err.Error()}}
		}
	}
	return e.hoisted.wire(config), nil
}

// find reads the package's files: those of the folder, and, as in CUE, those of the same package in the folders above it up to
// the module's root.
func (e *evaluation) find() []Mistake {
	fi, err := os.Stat(e.Dir)
	if err != nil {
		return []Mistake{{Message: fmt.Sprintf("open %s: %v", e.place(e.Dir), reason(err))}}
	}
	if !fi.IsDir() {
		return []Mistake{{Message: fmt.Sprintf("open %s: is not a directory", e.place(e.Dir))}}
	}
	e.root = e.Dir
	for d := e.Dir; ; d = filepath.Dir(d) {
		if fi, err := os.Stat(filepath.Join(d, "cue.mod")); err == nil && fi.IsDir() {
			e.root = d
			break
		}
		if d == filepath.Dir(d) {
			break
		}
	}
	var mistakes []Mistake
	if e.reader == nil {
		e.reader = &reader{most: maxTotalBytes}
	}
	for d := e.Dir; ; d = filepath.Dir(d) {
		entries, err := os.ReadDir(d)
		if err != nil {
			return []Mistake{{Message: fmt.Sprintf("read %s: %v", e.place(d), reason(err))}}
		}
		for _, entry := range entries {
			name := entry.Name()
			if !isPackageFile(name) {
				continue
			}
			f := &sourceFile{name: filepath.Join(d, name)}
			f.source, err = e.reader.read(f.name)
			if err != nil {
				mistakes = append(mistakes, Mistake{Pos: e.place(f.name), Message: reason(err).Error()})
				if len(e.files)+len(mistakes) > maxFiles {
					return mistakes[:1]
				}
				continue
			}
			if f.source == schema.Injected {
				e.vendored = append(e.vendored, f.name)
				continue
			}
			e.files = append(e.files, f)
		}
		if d == e.root {
			break
		}
	}
	if len(mistakes) > 0 {
		return mistakes
	}
	if len(e.files) == 0 && len(e.vendored) == 0 {
		return []Mistake{{Message: fmt.Sprintf("%s holds no .cue files", e.place(e.Dir))}}
	}
	if err := e.reading((e.CPU + time.Duration(e.reader.bytes)*2*time.Second/(1<<20)).Truncate(time.Second)); err != nil {
		return []Mistake{{Message: err.Error()}}
	}
	return nil
}

// isPackageFile tells which files CUE reads as part of a package.
func isPackageFile(name string) bool {
	return strings.HasSuffix(name, ".cue") && name[0] != '.' && name[0] != '_' &&
		!strings.HasSuffix(name, "_tool.cue") && !strings.HasSuffix(name, "_test.cue")
}

// reason is err without the operation and path that the message says itself.
func reason(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// read reads the files' syntax, several at a time, and checks that they are of our package.
func (e *evaluation) read() []Mistake {
	each(len(e.files), func(i int) {
		if f := e.files[i]; e.noHoist || !plainEntries(f) {
			f.syntax, f.err = parser.ParseFile(f.name, f.source)
		}
	})
	var mistakes []Mistake
	own, ours := 0, e.files[:0]
	for _, f := range e.files {
		inDir := filepath.Dir(f.name) == e.Dir
		if f.err != nil {
			mistakes = append(mistakes, e.syntaxMistakes(f)...)
			own++
			continue
		}
		name := packageName
		if f.syntax != nil {
			name = f.syntax.PackageName()
		}
		switch {
		case name == packageName:
			ours = append(ours, f)
			if inDir {
				own++
			}
		case !inDir: // another package of the user's
		case name == "":
			mistakes = append(mistakes, Mistake{Pos: e.place(f.name) + ":1:1", Message: "the file has no package clause; it must begin with: package " + packageName})
			own++
		default:
			mistakes = append(mistakes, Mistake{Pos: e.position(packagePos(f.syntax)), Message: fmt.Sprintf("the package is %s, but plumb reads package %s; move the file to a folder of its own", name, packageName)})
			own++
		}
	}
	e.files = ours
	if own == 0 && len(e.vendored) == 0 {
		return []Mistake{{Message: fmt.Sprintf("%s holds no .cue files", e.place(e.Dir))}}
	}
	return mistakes
}

// packageName is the CUE package that holds a configuration.
const packageName = "plumb"

func packagePos(f *ast.File) token.Pos {
	for _, d := range f.Decls {
		if p, ok := d.(*ast.Package); ok {
			return p.Name.Pos()
		}
	}
	return token.NoPos
}

// each calls f for every index below n, several at a time.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range min(runtime.GOMAXPROCS(0), n) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// build loads and evaluates what the files' syntax holds now, with the schema.
func (e *evaluation) build() (cue.Value, []Mistake) {
	overlay, mistakes := e.overlay()
	if len(mistakes) > 0 {
		return cue.Value{}, e.sorted(mistakes)
	}
	e.sources = overlay
	v, err := e.buildWith(string(schema.Source()), schema.Injected)
	if err != nil {
		return cue.Value{}, e.loadMistakes(err)
	}
	// Without Concrete first: a conflict makes other fields incomplete, and those are not mistakes of their own.
	if err = v.Validate(); err == nil {
		err = v.Validate(cue.Concrete(true))
	}
	if err != nil && e.terse {
		return cue.Value{}, e.raw(err)
	}
	if err != nil {
		return cue.Value{}, e.diagnose(err)
	}
	return v, nil
}

// buildWith evaluates the files with a schema, which may be an open one, and a file that applies it. Its error is what CUE's
// loader says.
func (e *evaluation) buildWith(definitions, injected string) (cue.Value, error) {
	e.sources[filepath.Join(e.root, "cue.mod/pkg", schema.ImportPath, "schema.cue")] = load.FromString(definitions)
	e.sources[filepath.Join(e.Dir, injectedName)] = load.FromString(injected)
	instances := load.Instances([]string{"."}, &load.Config{
		Dir: e.Dir, ModuleRoot: e.root, Package: packageName, Tags: e.Tags, Registry: noRegistry{}, Env: []string{}, Overlay: e.sources,
	})
	if len(instances) != 1 {
		return cue.Value{}, fmt.Errorf("load %s: %d packages instead of one", e.place(e.Dir), len(instances))
	}
	if err := instances[0].Err; err != nil {
		return cue.Value{}, err
	}
	return cuecontext.New().BuildInstance(instances[0]), nil
}

// noRegistry has no module: plumb never needs the network that it configures.
type noRegistry struct{}

func (noRegistry) refuse(m module.Version) error {
	return fmt.Errorf("module %v: plumb uses no registry; keep a copy of it below cue.mod/pkg: %w", m, modregistry.ErrNotFound)
}

// Requirements refuses.
func (n noRegistry) Requirements(_ context.Context, m module.Version) ([]module.Version, error) {
	return nil, n.refuse(m)
}

// ModFile refuses.
func (n noRegistry) ModFile(_ context.Context, m module.Version) (*modfile.File, error) {
	return nil, n.refuse(m)
}

// Fetch refuses.
func (n noRegistry) Fetch(_ context.Context, m module.Version) (module.SourceLoc, error) {
	return module.SourceLoc{}, n.refuse(m)
}

// ModuleVersions knows none.
func (noRegistry) ModuleVersions(context.Context, string) ([]string, error) { return nil, nil }
