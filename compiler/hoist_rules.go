package compiler

import (
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"cuelang.org/go/cue/ast"
	"cuelang.org/go/cue/literal"
	"cuelang.org/go/cue/parser"
	"cuelang.org/go/cue/token"

	"plumb.internal/plumb/schema"
)

// rule is what schema.cue says about one value. Rules are read from the schema's own text, so they can't disagree with it: they
// let a literal value be checked without CUE, and a mistake be told in plain words.
type rule struct {
	def  string // the schema's definition that it comes from, such as "#Name", or ""
	kind kind

	fields   map[string]fieldRule // of a struct
	required []string
	key      *rule // of a struct that maps any key
	value    *rule
	elem     *rule // of a list

	words    []string // the strings or numbers it must be one of
	matches  []*regexp.Regexp
	excludes []*regexp.Regexp
	ip, cidr bool
	min, max float64
	above    bool // min itself is excluded

	alternatives []*rule // of different kinds
}

type fieldRule struct {
	*rule
	required bool
}

// kind is the kind of a CUE value.
type kind byte

const (
	anyKind kind = iota
	stringKind
	intKind
	numberKind
	boolKind
	structKind
	mapKind
	listKind
)

// configRule is the rule of a whole configuration, #Config.
var configRule = sync.OnceValue(func() *rule {
	r, err := readRules(schema.Source())
	if err != nil {
		panic(err) // the schema is embedded, and a test reads it
	}
	return r
})

// ruleReader reads rules from the syntax of the schema.
type ruleReader struct {
	exprs map[string]ast.Expr
	defs  map[string]*rule
}

// readRules reads the small part of CUE that the schema is written in and refuses any other.
func readRules(source []byte) (*rule, error) {
	f, err := parser.ParseFile("schema.cue", source)
	if err != nil {
		return nil, err
	}
	r := &ruleReader{exprs: map[string]ast.Expr{}, defs: map[string]*rule{}}
	for _, d := range f.Decls {
		if fd, ok := d.(*ast.Field); ok {
			name, _, err := ast.LabelName(fd.Label)
			if err != nil {
				return nil, err
			}
			r.exprs[name] = fd.Value
		}
	}
	return r.definition("#Config")
}

func (r *ruleReader) definition(name string) (*rule, error) {
	if d, ok := r.defs[name]; ok {
		return d, nil
	}
	x, ok := r.exprs[name]
	if !ok {
		return nil, fmt.Errorf("read rules: %s is not defined", name)
	}
	d, err := r.expr(x)
	if err != nil {
		return nil, err
	}
	if d.def == "" {
		d.def = name
	}
	r.defs[name] = d
	return d, nil
}

func unbounded(k kind) *rule { return &rule{kind: k, min: math.Inf(-1), max: math.Inf(1)} }

func (r *ruleReader) expr(x ast.Expr) (*rule, error) {
	switch x := x.(type) {
	case *ast.ParenExpr:
		return r.expr(x.X)
	case *ast.Ident:
		switch x.Name {
		case "string":
			return unbounded(stringKind), nil
		case "int":
			return unbounded(intKind), nil
		case "number":
			return unbounded(numberKind), nil
		case "bool":
			return unbounded(boolKind), nil
		}
		if strings.HasPrefix(x.Name, "#") {
			return r.definition(x.Name)
		}
	case *ast.SelectorExpr:
		out := unbounded(stringKind)
		pkg, _ := x.X.(*ast.Ident)
		sel, _ := x.Sel.(*ast.Ident)
		if pkg != nil && sel != nil && pkg.Name == "net" {
			switch sel.Name {
			case "IP":
				out.ip = true
				return out, nil
			case "IPCIDR":
				out.cidr = true
				return out, nil
			}
		}
	case *ast.BasicLit:
		switch x.Kind {
		case token.STRING:
			s, err := literal.Unquote(x.Value)
			out := unbounded(stringKind)
			out.words = []string{s}
			return out, err
		case token.INT:
			out := unbounded(intKind)
			out.words = []string{x.Value}
			return out, nil
		}
	case *ast.UnaryExpr:
		return r.unary(x)
	case *ast.BinaryExpr:
		a, err := r.expr(x.X)
		if err != nil {
			return nil, err
		}
		b, err := r.expr(x.Y)
		if err != nil {
			return nil, err
		}
		switch {
		case x.Op == token.AND:
			return both(a, b), nil
		case x.Op == token.OR && a.words != nil && b.words != nil && a.kind == b.kind:
			out := unbounded(a.kind)
			out.words = slices.Concat(a.words, b.words)
			return out, nil
		case x.Op == token.OR:
			return &rule{alternatives: append(slices.Clip(a.orSelf()), b.orSelf()...)}, nil
		}
	case *ast.StructLit:
		return r.structure(x)
	case *ast.ListLit:
		if len(x.Elts) == 1 {
			if e, ok := x.Elts[0].(*ast.Ellipsis); ok {
				elem, err := r.expr(e.Type)
				return &rule{kind: listKind, elem: elem}, err
			}
		}
	}
	return nil, fmt.Errorf("read rules: %s: the schema uses a form that plumb has no rule for", x.Pos())
}

func (r *rule) orSelf() []*rule {
	if r.alternatives != nil {
		return r.alternatives
	}
	return []*rule{r}
}

func (r *ruleReader) unary(x *ast.UnaryExpr) (*rule, error) {
	lit, ok := x.X.(*ast.BasicLit)
	if !ok {
		return nil, fmt.Errorf("read rules: %s: want a literal", x.Pos())
	}
	switch x.Op {
	case token.MAT, token.NMAT:
		s, err := literal.Unquote(lit.Value)
		if err != nil {
			return nil, err
		}
		re, err := regexp.Compile(s)
		if err != nil {
			return nil, err
		}
		out := unbounded(stringKind)
		if x.Op == token.MAT {
			out.matches = []*regexp.Regexp{re}
		} else {
			out.excludes = []*regexp.Regexp{re}
		}
		return out, nil
	case token.GEQ, token.GTR, token.LEQ:
		n, err := strconv.ParseFloat(lit.Value, 64)
		out := unbounded(numberKind)
		if x.Op == token.LEQ {
			out.max = n
		} else {
			out.min, out.above = n, x.Op == token.GTR
		}
		return out, err
	}
	return nil, fmt.Errorf("read rules: %s: no rule for %s", x.Pos(), x.Op)
}

// both is the rule of a & b.
func both(a, b *rule) *rule {
	out := *a
	out.def = ""
	if a.kind == numberKind && b.kind == intKind {
		out.kind = intKind
	}
	out.matches = slices.Concat(a.matches, b.matches)
	out.excludes = slices.Concat(a.excludes, b.excludes)
	out.ip, out.cidr = a.ip || b.ip, a.cidr || b.cidr
	if b.min > out.min {
		out.min, out.above = b.min, b.above
	}
	out.max = min(a.max, b.max)
	return &out
}

func (r *ruleReader) structure(x *ast.StructLit) (*rule, error) {
	out := &rule{kind: structKind, fields: map[string]fieldRule{}}
	for _, d := range x.Elts {
		f, ok := d.(*ast.Field)
		if !ok {
			return nil, fmt.Errorf("read rules: %s: want a field", d.Pos())
		}
		value, err := r.expr(f.Value)
		if err != nil {
			return nil, err
		}
		if l, ok := f.Label.(*ast.ListLit); ok && len(l.Elts) == 1 && len(x.Elts) == 1 {
			key, err := r.expr(l.Elts[0])
			return &rule{kind: mapKind, key: key, value: value}, err
		}
		name, _, err := ast.LabelName(f.Label)
		if err != nil {
			return nil, err
		}
		switch f.Constraint {
		case token.OPTION:
			out.fields[name] = fieldRule{rule: value}
		case token.NOT:
			out.fields[name] = fieldRule{rule: value, required: true}
			out.required = append(out.required, name)
		default:
			return nil, fmt.Errorf("read rules: %s: %s is neither optional nor required", f.Pos(), name)
		}
	}
	return out, nil
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
