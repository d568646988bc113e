package compiler

import (
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/literal"
	"cuelang.org/go/cue/token"
)

// literalValue decodes x into dst if x is a literal that r allows. False means that only CUE can tell: x may be anything, valid or
// not. A dst that is given back with false holds rubbish.
func (r *rule) literalValue(dst reflect.Value, x ast.Expr) bool {
	if r.alternatives != nil {
		for _, a := range r.alternatives {
			if a.literalValue(dst, x) {
				return true
			}
		}
		return false
	}
	switch dst.Kind() {
	case reflect.Pointer:
		p := reflect.New(dst.Type().Elem())
		dst.Set(p)
		return r.literalValue(p.Elem(), x)
	case reflect.Interface:
		switch r.kind {
		case stringKind:
			s, ok := literalString(x)
			dst.Set(reflect.ValueOf(s))
			return ok && r.allowsString(s)
		case intKind:
			n, ok := literalInt(x)
			dst.Set(reflect.ValueOf(n))
			return ok && r.allowsInt(n)
		}
		return false
	}
	switch r.kind {
	case stringKind:
		s, ok := literalString(x)
		if !ok || !r.allowsString(s) {
			return false
		}
		dst.SetString(s)
		return true
	case intKind:
		n, ok := literalInt(x)
		if !ok || !r.allowsInt(n) {
			return false
		}
		dst.SetInt(int64(n))
		return true
	case numberKind:
		lit, ok := x.(*ast.BasicLit)
		if !ok || lit.Kind != token.FLOAT || strings.Trim(lit.Value, "0123456789.") != "" || len(lit.Value) > 17 {
			return false
		}
		n, err := strconv.ParseFloat(lit.Value, 64)
		dst.SetFloat(n)
		return err == nil && r.inRange(n)
	case boolKind:
		lit, ok := x.(*ast.BasicLit)
		if !ok || lit.Kind != token.TRUE && lit.Kind != token.FALSE {
			return false
		}
		dst.SetBool(lit.Kind == token.TRUE)
		return true
	case listKind:
		return r.literalList(dst, x)
	case structKind:
		return r.literalStruct(dst, x)
	case mapKind:
		return r.literalMap(dst, x)
	}
	return false
}

func (r *rule) literalList(dst reflect.Value, x ast.Expr) bool {
	l, ok := x.(*ast.ListLit)
	if !ok {
		return false
	}
	if len(l.Elts) == 0 {
		return true
	}
	s := reflect.MakeSlice(dst.Type(), len(l.Elts), len(l.Elts))
	for i, e := range l.Elts {
		if !r.elem.literalValue(s.Index(i), e) {
			return false
		}
	}
	dst.Set(s)
	return true
}

func (r *rule) literalStruct(dst reflect.Value, x ast.Expr) bool {
	st, ok := x.(*ast.StructLit)
	if !ok {
		return false
	}
	fields := structFields(dst.Type())
	var seen uint64 // by index in the Go struct, all of which have fewer fields than bits
	for _, d := range st.Elts {
		f, name, ok := plainField(d)
		if !ok {
			return false
		}
		fr, known := r.fields[name]
		i, have := fields[name]
		if !known || !have || seen&(1<<i) != 0 || !fr.literalValue(dst.Field(i), f.Value) {
			return false
		}
		seen |= 1 << i
	}
	for _, name := range r.required {
		if seen&(1<<fields[name]) == 0 {
			return false
		}
	}
	return true
}

func (r *rule) literalMap(dst reflect.Value, x ast.Expr) bool {
	st, ok := x.(*ast.StructLit)
	if !ok {
		return false
	}
	if len(st.Elts) == 0 {
		return true
	}
	m := reflect.MakeMapWithSize(dst.Type(), len(st.Elts))
	for _, d := range st.Elts {
		f, name, ok := plainField(d)
		if !ok || !r.key.allowsString(name) {
			return false
		}
		e := reflect.New(dst.Type().Elem()).Elem()
		if !r.value.literalValue(e, f.Value) {
			return false
		}
		m.SetMapIndex(reflect.ValueOf(name), e)
	}
	dst.Set(m)
	return m.Len() == len(st.Elts) // else a key is there twice, which is CUE's to unify
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

func literalInt(x ast.Expr) (int, bool) {
	lit, ok := x.(*ast.BasicLit)
	if !ok || lit.Kind != token.INT || len(lit.Value) > 9 || len(lit.Value) > 1 && lit.Value[0] == '0' {
		return 0, false
	}
	n, err := strconv.Atoi(lit.Value)
	return n, err == nil
}

func (r *rule) inRange(n float64) bool {
	return n <= r.max && (n > r.min || n == r.min && !r.above)
}

func (r *rule) allowsInt(n int) bool {
	return r.inRange(float64(n)) && (r.words == nil || slices.Contains(r.words, strconv.Itoa(n)))
}

func (r *rule) allowsString(s string) bool {
	if r.words != nil && !slices.Contains(r.words, s) {
		return false
	}
	for _, re := range r.matches {
		if !re.MatchString(s) {
			return false
		}
	}
	for _, re := range r.excludes {
		if re.MatchString(s) {
			return false
		}
	}
	if r.ip {
		if _, err := netip.ParseAddr(s); err != nil {
			return false
		}
	}
	if r.cidr {
		if _, err := netip.ParsePrefix(s); err != nil {
			return false
		}
	}
	return true
}
