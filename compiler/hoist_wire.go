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
					b = h.entries[entryName{name, k}].append(b, f.Type().Elem())
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

// append appends the wire form of the value, whose type is t, with what others of the same name add.
func (c *entry) append(b []byte, t reflect.Type) []byte {
	if c.with == nil {
		return append(b, c.wire...)
	}
	v := reflect.New(t).Elem()
	for p := c; p != nil; p = p.with {
		r := wireReader{b: p.wire}
		r.value(v)
	}
	return appendWire(b, v)
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
	for p := c; p != nil; p = p.with {
		if at := p.position(rest); at >= 0 && (len(rest) > 0 || !p.optional) {
			return p.file, at
		}
	}
	return nil, 0
}

// position is the offset in the file of what the path leads to inside the entry; -1 if it isn't there.
func (c *entry) position(path []cue.Selector) int {
	syntax, err := parser.ParseFile(c.file.name, c.file.source[c.from:c.to])
	if err != nil {
		return -1
	}
	at, x := syntax.Pos(), syntax.Decls[0].(*ast.Field).Value
	for _, sel := range path {
		switch v := x.(type) {
		case *ast.ListLit:
			if sel.Type() != cue.IndexLabel || sel.Index() >= len(v.Elts) {
				return -1
			}
			x = v.Elts[sel.Index()]
		case *ast.StructLit:
			i := slices.IndexFunc(v.Elts, func(d ast.Decl) bool {
				_, name, ok := plainField(d)
				return ok && name == label(sel)
			})
			if i < 0 {
				return -1
			}
			x = v.Elts[i].(*ast.Field).Value
		default:
			return -1
		}
		at = x.Pos()
	}
	return c.from + at.Offset()
}

func label(s cue.Selector) string {
	if s.Type() != cue.StringLabel {
		return ""
	}
	return s.Unquoted()
}
