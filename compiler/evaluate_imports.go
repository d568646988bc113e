package compiler

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/load"
	"cuelang.org/go/cue/parser"
	"cuelang.org/go/mod/modfile"

	"plumb.internal/plumb/schema"
)

// overlay is every CUE file that the package needs, read and parsed by us: its own files, and what it imports from its
// module or from copies below cue.mod. CUE's loader then opens none by itself.
func (e *evaluation) overlay() (map[string]load.Source, []Mistake) {
	overlay := map[string]load.Source{}
	modName := filepath.Join(e.root, "cue.mod/module.cue")
	modText, err := e.reader.read(modName)
	if errors.Is(err, fs.ErrNotExist) {
		modText, err = schema.ModuleFile, nil
	}
	if err != nil {
		return nil, []Mistake{{Pos: e.place(modName), Message: reason(err).Error()}}
	}
	overlay[modName] = load.FromString(modText)
	modPath := ""
	if mod, err := modfile.ParseNonStrict([]byte(modText), modName); err == nil { // CUE's loader says what is wrong with it
		modPath = mod.ModuleRootPath()
	}

	seen := map[string]bool{schema.ImportPath: true}
	var mistakes []Mistake
	var visit func(f *ast.File)
	readFolder := func(dir string) {
		entries, err := os.ReadDir(dir)
		if err != nil || seen[dir] {
			return // CUE's loader says so, with the position of the import
		}
		seen[dir] = true
		for _, entry := range entries {
			if !isPackageFile(entry.Name()) {
				continue
			}
			name := filepath.Join(dir, entry.Name())
			if _, have := overlay[name]; have {
				continue
			}
			text, err := e.reader.read(name)
			if err != nil {
				mistakes = append(mistakes, Mistake{Pos: e.place(name), Message: reason(err).Error()})
				continue
			}
			f, err := parser.ParseFile(name, text)
			if err != nil {
				mistakes = append(mistakes, e.syntaxMistakes(&sourceFile{name: name, err: err})...)
				continue
			}
			overlay[name] = load.FromString(text)
			visit(f)
		}
	}
	visit = func(f *ast.File) {
		for spec := range f.ImportSpecs() {
			p, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				continue
			}
			p = ast.ParseImportPath(p).Path
			if seen[p] {
				continue
			}
			seen[p] = true
			if p == modPath || strings.HasPrefix(p, modPath+"/") {
				// As in CUE, a package reaches up to the module's root.
				for dir := filepath.Join(e.root, strings.TrimPrefix(p, modPath)); ; dir = filepath.Dir(dir) {
					readFolder(dir)
					if dir == e.root || len(dir) < len(e.root) {
						break
					}
				}
				continue
			}
			for _, sub := range []string{"gen", "usr", "pkg"} {
				readFolder(filepath.Join(e.root, "cue.mod", sub, p))
			}
		}
		mistakes = append(mistakes, e.embedMistakes(f)...)
	}
	for _, name := range e.vendored {
		overlay[name] = load.FromString("package " + packageName + "\n")
	}
	for _, f := range e.files {
		if f.syntax == nil { // all of it was taken out
			overlay[f.name] = load.FromString("package " + packageName + "\n")
			continue
		}
		overlay[f.name] = load.FromFile(f.syntax)
		visit(f.syntax)
	}
	return overlay, mistakes
}

// embedMistakes checks the files that @embed names: what isn't there CUE's loader says, but it would wait for a FIFO.
func (e *evaluation) embedMistakes(f *ast.File) []Mistake {
	var ms []Mistake
	ast.Walk(f, func(n ast.Node) bool {
		a, ok := n.(*ast.Attribute)
		if !ok {
			return true
		}
		key, body := a.Split()
		if key != "embed" {
			return true
		}
		for arg := range strings.SplitSeq(body, ",") {
			k, v, _ := strings.Cut(strings.TrimSpace(arg), "=")
			if u, err := strconv.Unquote(v); err == nil {
				v = u
			}
			if k != "file" && k != "glob" {
				continue
			}
			names, _ := filepath.Glob(filepath.Join(filepath.Dir(f.Filename), v))
			for _, name := range names {
				fi, err := os.Stat(name)
				switch {
				case err != nil:
					continue
				case !fi.Mode().IsRegular():
					err = notRegular(fi.Mode())
				case fi.Size() > maxFileBytes:
					err = errTooLarge
				}
				if err != nil {
					ms = append(ms, Mistake{Pos: e.position(a.Pos()), Message: "embed " + e.place(name) + ": " + err.Error()})
				}
			}
		}
		return true
	}, nil)
	return ms
}
