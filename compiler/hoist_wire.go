package compiler

import (
	"encoding/binary"
	"reflect"
	"slices"

	"cuelang.org/go/cue"
	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/parser"

	"plumb.internal/plumb/schema"
)

// wire is the wire form of a whole configuration: what was hoisted, and what CUE made of the rest.
func (h *hoisted) wire(rest *schema.Config) []byte {
	size := 0
	keys := map[string][]string{}
	for name, c := range h.entries {
		keys[name.field] = append(keys[name.field], name.key)
		size += len(name.key) + len(c.wire) + 2*binary.MaxVarintLen64
	}
	b := make([]byte, 0, size)
	v := reflect.ValueOf(rest).Elem()
	for i := range v.NumField() {
		f, name := v.Field(i), fieldName(v.Type().Field(i))
		switch c := h.entries[entryName{field: name}]; {
		case c != nil:
			if c.wire != "" {
				b = append(append(b, byte(i+1)), c.wire...)
			}
		case len(keys[name]) > 0:
			for _, k := range f.MapKeys() {
				keys[name] = append(keys[name], k.String())
			}
			slices.Sort(keys[name])
			b = binary.AppendUvarint(append(b, byte(i+1)), uint64(len(keys[name])))
			for _, k := range keys[name] {
				if b = appendString(b, k); h.entries[entryName{name, k}] != nil {
					b = append(b, h.entries[entryName{name, k}].wire...)
				} else {
					b = appendWire(b, f.MapIndex(reflect.ValueOf(k)))
				}
			}
		case !f.IsZero():
			b = appendWire(append(b, byte(i+1)), f)
		}
	}
	return append(b, 0)
}

// position is where the file says what path leads to, if that was hoisted. Only now is an entry parsed for its syntax.
func (h *hoisted) position(path []cue.Selector) (f *sourceFile, offset int) {
	c, rest := h.entries[entryName{field: label(path[0])}], path[1:]
	if c == nil && len(path) > 1 {
		c, rest = h.entries[entryName{label(path[0]), label(path[1])}], path[2:]
	}
	if c == nil {
		return nil, 0
	}
	syntax, err := parser.ParseFile(c.file.name, c.file.source[c.from:c.to])
	if err != nil {
		return nil, 0
	}
	at, x := syntax.Pos(), syntax.Decls[0].(*ast.Field).Value
	for _, sel := range rest {
		switch v := x.(type) {
		case *ast.ListLit:
			if sel.Type() != cue.IndexLabel || sel.Index() >= len(v.Elts) {
				return nil, 0
			}
			x = v.Elts[sel.Index()]
		case *ast.StructLit:
			i := slices.IndexFunc(v.Elts, func(d ast.Decl) bool {
				_, name, ok := plainField(d)
				return ok && name == label(sel)
			})
			if i < 0 {
				return nil, 0
			}
			x = v.Elts[i].(*ast.Field).Value
		default:
			return nil, 0
		}
		at = x.Pos()
	}
	return c.file, c.from + at.Offset()
}

func label(s cue.Selector) string {
	if s.Type() != cue.StringLabel {
		return ""
	}
	return s.Unquoted()
}
