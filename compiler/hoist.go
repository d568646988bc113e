package compiler

import (
	"reflect"
	"strconv"

	"cuelang.org/go/cue/ast"

	"plumb.internal/plumb/schema"
)

// Evaluating is most of the time of a compile, and most of a large repository is literal: entries of pods and services that
// nothing refers to. Such an entry means the same alone as in the package, so it is taken out of the syntax, checked and decoded
// here, and only the rest goes through CUE. Whatever might make that unsound leaves the entry where it is.

// hoisted is what was taken out of the files' syntax.
type hoisted struct {
	config  schema.Config
	entries map[entryName]*ast.Field
	rest    bool // something is left for CUE
}

// entryName is a top-level field, or one entry of it.
type entryName struct{ field, entry string }

// candidate is one declaration that may be taken out.
type candidate struct {
	name  entryName
	field *ast.Field
	value reflect.Value // decoded; invalid where only CUE can tell
}

// hoist takes literals out of the files' syntax.
func (e *evaluation) hoist() *hoisted {
	h := &hoisted{entries: map[entryName]*ast.Field{}}
	perFile := make([][]candidate, len(e.files))
	off := map[string]bool{} // fields that must stay whole
	for i, f := range e.files {
		if !candidates(f.syntax, &perFile[i], off) {
			h.rest = true
			return h
		}
	}
	each(len(e.files), func(i int) {
		for j := range perFile[i] {
			perFile[i][j].check()
		}
	})
	count := map[entryName]int{}
	for _, cs := range perFile {
		for _, c := range cs {
			count[c.name]++
		}
	}
	take := func(c *candidate) bool {
		return c.value.IsValid() && count[c.name] == 1 && !off[c.name.field]
	}
	// What stays may refer to what would go. The answer can't get larger by leaving more, so one pass is enough: an entry that
	// stays only because its field is off is literal and refers to nothing.
	referred := map[string]bool{}
	for i, f := range e.files {
		taken := map[*ast.Field]bool{}
		for j := range perFile[i] {
			if c := &perFile[i][j]; take(c) {
				taken[c.field] = true
			}
		}
		references(f.syntax, taken, referred)
	}
	for _, cs := range perFile {
		for _, c := range cs {
			// By the field's name from anywhere, or by the entry's from beside it.
			if referred[c.name.field] || referred[c.name.entry] {
				off[c.name.field] = true
			}
		}
	}
	config := reflect.ValueOf(&h.config).Elem()
	index := structFields(config.Type())
	for i, f := range e.files {
		taken := map[*ast.Field]bool{}
		for j := range perFile[i] {
			c := &perFile[i][j]
			if !take(c) {
				continue
			}
			taken[c.field] = true
			h.entries[c.name] = c.field
			dst := config.Field(index[c.name.field])
			if c.name.entry == "" {
				dst.Set(c.value)
				continue
			}
			if dst.IsNil() {
				dst.Set(reflect.MakeMapWithSize(dst.Type(), len(perFile[i])))
			}
			dst.SetMapIndex(reflect.ValueOf(c.name.entry), c.value)
		}
		if h.remove(f.syntax, taken) {
			h.rest = true
		}
	}
	return h
}

// candidates lists the entries of one file, and notes the fields whose entries can't be judged one by one. It is false where
// no entry of any file can.
func candidates(f *ast.File, out *[]candidate, off map[string]bool) bool {
	top := configRule()
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.Package, *ast.ImportDecl, *ast.LetClause, *ast.CommentGroup:
			continue
		case *ast.EmbedDecl:
			if appliesSchema(f, d) {
				continue
			}
			return false
		case *ast.Field:
			fd, name, ok := plainField(d)
			if !ok {
				if n, _, err := ast.LabelName(d.Label); err == nil {
					off[n] = true // an alias, an attribute, a hidden field, a definition
					continue
				}
				return false // a pattern or a computed name may be any field
			}
			fr, known := top.fields[name]
			if !known {
				continue
			}
			if fr.kind != mapKind {
				*out = append(*out, candidate{name: entryName{field: name}, field: fd})
				continue
			}
			st, ok := fd.Value.(*ast.StructLit)
			if !ok {
				off[name] = true
				continue
			}
			for _, d := range st.Elts {
				if entry, key, ok := plainField(d); ok && key != "" {
					*out = append(*out, candidate{name: entryName{name, key}, field: entry})
				} else {
					off[name] = true
				}
			}
		default:
			return false
		}
	}
	return true
}

// check decodes the candidate if the schema's rules allow what it holds.
func (c *candidate) check() {
	top := configRule()
	r := top.fields[c.name.field].rule
	t := reflect.TypeFor[schema.Config]().Field(structFields(reflect.TypeFor[schema.Config]())[c.name.field]).Type
	if c.name.entry != "" {
		if !r.key.allowsString(c.name.entry) {
			return
		}
		r, t = r.value, t.Elem()
	}
	v := reflect.New(t).Elem()
	if r.literalValue(v, c.field.Value) {
		c.value = v
	}
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
	return importsOnlySchema(f, true)
}

// importsOnlySchema tells whether f imports the schema, or nothing where it needn't.
func importsOnlySchema(f *ast.File, must bool) bool {
	n := 0
	for spec := range f.ImportSpecs() {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil || p != schema.ImportPath || spec.Name != nil {
			return false
		}
		n++
	}
	return n == 1 || n == 0 && !must
}

// references notes the names that the syntax refers to, but for what is taken.
func references(n ast.Node, taken map[*ast.Field]bool, names map[string]bool) {
	ast.Walk(n, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Field:
			if taken[n] {
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

// remove takes fields out of the syntax and tells whether anything of meaning is left. Nodes are changed in place, since the
// parser has bound references to them.
func (h *hoisted) remove(f *ast.File, taken map[*ast.Field]bool) (rest bool) {
	decls := f.Decls
	f.Decls = nil
	for _, d := range decls {
		switch d := d.(type) {
		case *ast.Field:
			if taken[d] {
				continue
			}
			if st, ok := d.Value.(*ast.StructLit); ok && len(taken) > 0 {
				elts := st.Elts
				var left []ast.Decl
				for _, x := range elts {
					if x, ok := x.(*ast.Field); !ok || !taken[x] {
						left = append(left, x)
					}
				}
				if len(left) < len(elts) {
					if st.Elts = left; len(left) == 0 {
						continue
					}
				}
			}
			rest = true
		case *ast.Package, *ast.CommentGroup:
		case *ast.ImportDecl:
			rest = rest || !importsOnlySchema(f, true)
		case *ast.EmbedDecl: // applies the schema
		default:
			rest = true
		}
		f.Decls = append(f.Decls, d)
	}
	// Without the embedding, an import of the schema is used by something else, or is a mistake.
	return rest || importsWithoutUse(f)
}

func importsWithoutUse(f *ast.File) bool {
	for range f.ImportSpecs() {
		for _, d := range f.Decls {
			if e, ok := d.(*ast.EmbedDecl); ok && appliesSchema(f, e) {
				return false
			}
		}
		return true
	}
	return false
}
