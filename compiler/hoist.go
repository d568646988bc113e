package compiler

import (
	"slices"
	"strconv"
	"strings"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/literal"
	"cuelang.org/go/cue/parser"
	"cuelang.org/go/cue/token"

	"plumb.internal/plumb/schema"
)

// Evaluating is most of the time of a compile, and most of a large repository is literal: entries of pods and services that
// nothing refers to. Such an entry means the same alone as in the package, so it is taken out of its file, checked and encoded
// here, and only the rest goes through CUE. Whatever might make that unsound leaves the entry where it is.

// hoisted is what was taken out of the files.
type hoisted struct {
	entries map[entryName]*entry
	rest    bool // something is left for CUE
}

// entryName is a top-level field, or one entry of it where the field maps names.
type entryName struct{ field, key string }

// entry is one declaration that may be taken out of its file.
type entry struct {
	entryName
	file     *sourceFile
	from, to int    // where its label begins and its value ends, in the file's text
	wire     string // the wire form of its value; empty for a field that is as if it were left out
	literal  bool   // else only CUE can tell what it is
	optional bool   // "web?: ..." says what holds if there is a web
	sets     uint64 // the fields of its value, by index in the Go struct
	with     *entry // another one of the same name, and so on
	stay     bool   // only CUE can unify it with those
}

// unify settles what the entries of one name are together. Structs whose fields differ hold all of them; what only ever is
// optional is nothing; the rest is CUE's.
func (c *entry) unify() (nothing bool) {
	var sets uint64
	nothing, stay := true, false
	for p := c; p != nil; p = p.with {
		nothing = nothing && p.optional
		stay = stay || !p.literal || p.sets&sets != 0 || (p.key == "" && p.with != nil)
		sets |= p.sets
	}
	for p := c; p != nil; p = p.with {
		p.stay = stay
	}
	return nothing && !stay
}

// merge puts the entries of all files together; absent are those that are nothing.
func merge(files []*sourceFile) (h *hoisted, absent []entryName) {
	n := 0
	for _, f := range files {
		n += len(f.entries)
	}
	h = &hoisted{entries: make(map[entryName]*entry, n)}
	for _, f := range files {
		for i := range f.entries {
			c := &f.entries[i]
			c.with = h.entries[c.entryName]
			h.entries[c.entryName] = c
		}
	}
	for name, c := range h.entries {
		if c.unify() {
			absent = append(absent, name)
		}
	}
	return h, absent
}

// hoist takes literals out of the files. Files that hold nothing else have no syntax tree, and get one only if something in
// them must stay.
func (e *evaluation) hoist() []Mistake {
	e.hoisted = &hoisted{rest: true}
	if e.noHoist {
		return nil
	}
	each(len(e.files), func(i int) {
		if f := e.files[i]; f.syntax != nil {
			f.findEntries()
		}
	})
	off := map[string]bool{} // fields that must stay whole
	for _, f := range e.files {
		if f.opaque {
			return e.parse(func(f *sourceFile) bool { return f.syntax == nil })
		}
		for _, name := range f.off {
			off[name] = true
		}
	}
	h, absent := merge(e.files)
	// What stays may refer to what would go. The answer can't get larger by leaving more, so one pass is enough: an entry that
	// stays only because its field is off is literal and refers to nothing.
	stays := func(c entry) bool { return !c.literal || c.stay || off[c.field] }
	referred := map[string]bool{}
	for _, f := range e.files {
		if f.syntax != nil {
			references(f.syntax, f.taken(stays), referred)
		}
	}
	for name := range h.entries {
		// By the field's name from anywhere, or by the entry's from beside it.
		if referred[name.field] || referred[name.key] {
			off[name.field] = true
		}
	}
	if m := e.parse(func(f *sourceFile) bool { return f.syntax == nil && slices.ContainsFunc(f.entries, stays) }); len(m) > 0 {
		return m
	}
	for _, f := range e.files {
		if f.syntax != nil && f.remove(f.taken(stays)) {
			h.rest = true
		}
	}
	for name, c := range h.entries {
		if stays(*c) {
			delete(h.entries, name)
		}
	}
	for _, name := range absent {
		delete(h.entries, name)
	}
	e.hoisted = h
	return nil
}

// parse makes the syntax trees that were not needed until now.
func (e *evaluation) parse(needed func(f *sourceFile) bool) (mistakes []Mistake) {
	each(len(e.files), func(i int) {
		if f := e.files[i]; needed(f) {
			f.syntax, f.err = parser.ParseFile(f.name, f.source)
		}
	})
	for _, f := range e.files {
		if f.err != nil {
			mistakes = append(mistakes, e.syntaxMistakes(f)...)
		}
	}
	return mistakes
}

// findEntries lists the entries of a file that has a syntax tree, the fields whose entries can't be judged one by one, and
// whether that holds for every field of the package.
func (f *sourceFile) findEntries() {
	top := configRule()
	for _, d := range f.syntax.Decls {
		switch d := d.(type) {
		case *ast.Package, *ast.ImportDecl, *ast.LetClause, *ast.CommentGroup:
			continue
		case *ast.EmbedDecl:
			f.opaque = f.opaque || !appliesSchema(f.syntax, d)
		case *ast.Field:
			fd, name, ok := plainField(d)
			if !ok {
				if n, _, err := ast.LabelName(d.Label); err == nil {
					f.off = append(f.off, n) // an alias, an attribute, a hidden field, a definition
				} else {
					f.opaque = true // a pattern or a computed name may be any field
				}
				continue
			}
			fr, known := top.fields[name]
			if !known {
				continue
			}
			if fr.kind != mapKind {
				f.addEntry(entryName{field: name}, fd)
				continue
			}
			st, ok := fd.Value.(*ast.StructLit)
			if !ok {
				f.off = append(f.off, name)
				continue
			}
			for _, d := range st.Elts {
				if fd, key, ok := plainField(d); ok && key != "" {
					f.addEntry(entryName{name, key}, fd)
				} else if fd, key, ok := optionalField(d); ok {
					f.addEntry(entryName{name, key}, fd)
				} else {
					f.off = append(f.off, name)
				}
			}
		default:
			f.opaque = true
		}
	}
}

func (f *sourceFile) addEntry(name entryName, fd *ast.Field) {
	c := entry{entryName: name, file: f, from: fd.Label.Pos().Offset(), optional: fd.Constraint == token.OPTION}
	r := literalReader{text: f.source, at: c.from}
	if _, ok := r.label(); ok && r.entry(&c) {
		c.literal = c.to == fd.End().Offset()
	}
	f.entries = append(f.entries, c)
}

// taken is where the labels begin of the entries that don't stay.
func (f *sourceFile) taken(stays func(entry) bool) map[int]bool {
	m := map[int]bool{}
	for _, c := range f.entries {
		if !stays(c) {
			m[c.from] = true
		}
	}
	return m
}

// plainField tells whether d is a field with a fixed name and nothing else about it.
func plainField(d ast.Decl) (*ast.Field, string, bool) {
	f, ok := d.(*ast.Field)
	if !ok || f.Constraint != token.ILLEGAL || f.Alias != nil || len(f.Attrs) > 0 {
		return nil, "", false
	}
	switch l := f.Label.(type) {
	case *ast.Ident:
		return f, l.Name, l.Name != "" && l.Name[0] != '_' && l.Name[0] != '#' && !strings.ContainsAny(l.Name, "`$")
	case *ast.BasicLit:
		s, ok := literalString(l)
		return f, s, ok
	}
	return nil, "", false
}

// optionalField is plainField for a field that is only said of if it is there: web?: {}.
func optionalField(d ast.Decl) (*ast.Field, string, bool) {
	f, ok := d.(*ast.Field)
	if !ok || f.Constraint != token.OPTION {
		return nil, "", false
	}
	plain := *f
	plain.Constraint = token.ILLEGAL
	_, name, ok := plainField(&plain)
	return f, name, ok && name != ""
}

func literalString(x ast.Expr) (string, bool) {
	lit, ok := x.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING || len(lit.Value) < 2 || lit.Value[0] != '"' || strings.HasPrefix(lit.Value, `"""`) {
		return "", false
	}
	if s := lit.Value[1 : len(lit.Value)-1]; strings.IndexByte(s, '\\') < 0 {
		return s, true
	}
	s, err := literal.Unquote(lit.Value)
	return s, err == nil
}

// appliesSchema tells whether d is schema.#Config, which plumb applies anyway.
func appliesSchema(f *ast.File, d *ast.EmbedDecl) bool {
	sel, ok := d.Expr.(*ast.SelectorExpr)
	if !ok {
		return false
	}
	pkg, ok1 := sel.X.(*ast.Ident)
	def, ok2 := sel.Sel.(*ast.Ident)
	if !ok1 || !ok2 || pkg.Name != "schema" || def.Name != "#Config" {
		return false
	}
	return importsOnlySchema(f)
}

// importsOnlySchema tells whether f imports the schema and nothing else.
func importsOnlySchema(f *ast.File) bool {
	n := 0
	for spec := range f.ImportSpecs() {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil || p != schema.ImportPath || spec.Name != nil {
			return false
		}
		n++
	}
	return n == 1
}

// references notes the names that the syntax refers to, but for what is taken.
func references(n ast.Node, taken map[int]bool, names map[string]bool) {
	ast.Walk(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Field:
			if isTaken(n, taken) {
				return false
			}
			if _, plain := n.Label.(*ast.Ident); plain {
				references(n.Value, taken, names)
				return false
			}
		case *ast.Ident:
			names[n.Name] = true
		}
		return true
	}, nil)
}

func isTaken(d ast.Decl, taken map[int]bool) bool {
	f, ok := d.(*ast.Field)
	return ok && taken[f.Label.Pos().Offset()]
}

// remove takes fields out of the syntax and tells whether anything of meaning is left. Nodes are changed in place, since the
// parser has bound references to them.
func (f *sourceFile) remove(taken map[int]bool) (rest bool) {
	decls := f.syntax.Decls
	f.syntax.Decls = nil
	imports, embeds := false, false
	for _, d := range decls {
		switch d := d.(type) {
		case *ast.Field:
			if isTaken(d, taken) {
				continue
			}
			if st, ok := d.Value.(*ast.StructLit); ok && len(st.Elts) > 0 {
				st.Elts = slices.DeleteFunc(st.Elts, func(d ast.Decl) bool { return isTaken(d, taken) })
				if len(st.Elts) == 0 {
					continue
				}
			}
			rest = true
		case *ast.Package, *ast.CommentGroup:
		case *ast.ImportDecl:
			imports = true
		case *ast.EmbedDecl: // applies the schema
			embeds = true
		default:
			rest = true
		}
		f.syntax.Decls = append(f.syntax.Decls, d)
	}
	// Without the embedding, an import is used by something else, or is a mistake.
	return rest || imports && !embeds
}
