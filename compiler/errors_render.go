package compiler

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cuelang.org/go/cue"
	"cuelang.org/go/cue/ast"
	cueerrors "cuelang.org/go/cue/errors"
	"cuelang.org/go/cue/parser"
	"cuelang.org/go/cue/token"

	"plumb.internal/plumb/schema"
)

// place is how a user reads a file name: relative where the file is below the working directory.
func (e *evaluation) place(name string) string {
	if rel, err := filepath.Rel(e.Cwd, name); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		return rel
	}
	return name
}

// isUsers tells whether a position is in one of the user's files.
func (e *evaluation) isUsers(p token.Pos) bool {
	return p.IsValid() && p.Line() > 0 && filepath.Base(p.Filename()) != injectedName &&
		!strings.HasSuffix(p.Filename(), "/cue.mod/pkg/plumb.internal/schema/schema.cue") && strings.HasPrefix(p.Filename(), "/")
}

// position is file:line:col, or empty where p isn't in the user's files.
func (e *evaluation) position(p token.Pos) string {
	if !e.isUsers(p) {
		return ""
	}
	return fmt.Sprintf("%s:%d:%d", e.place(p.Filename()), p.Line(), p.Column())
}

// syntaxMistakes renders what the parser says about one file.
func (e *evaluation) syntaxMistakes(f *sourceFile) []Mistake {
	var ms []Mistake
	for _, err := range cueerrors.Errors(f.err) {
		format, args := err.Msg()
		m := Mistake{Pos: e.position(err.Position()), Message: fmt.Sprintf(format, args...)}
		// One mistake confuses the parser for the rest of its line.
		_, line, _ := splitPosition(m.Pos)
		if len(ms) > 0 {
			if _, last, _ := splitPosition(ms[len(ms)-1].Pos); last == line {
				continue
			}
		}
		ms = append(ms, m)
	}
	return ms
}

// loadMistakes renders what CUE says before evaluating: imports, tags, embedded files.
func (e *evaluation) loadMistakes(err error) []Mistake {
	ms := e.raw(err)
	for i := range ms {
		m := &ms[i]
		m.Path = "" // the package's own import path
		for strings.HasPrefix(m.Message, "import failed: ") {
			m.Message = strings.TrimPrefix(strings.TrimPrefix(m.Message, "import failed: "), m.Pos+": ")
		}
		if tag, ok := strings.CutPrefix(m.Message, "no tag for "); ok {
			m.Message = fmt.Sprintf("-t names the tag %s, but no field has that tag", tag)
		}
		if m.Pos == "" && strings.Contains(m.Message, "module.cue") {
			m.Pos = e.place(filepath.Join(e.root, "cue.mod/module.cue"))
		}
	}
	return e.sorted(ms)
}

// diagnose finds every mistake in a package that CUE refuses. It evaluates once more without the schema: what fails then is between
// the user's own lines, and what does not can be held against the schema's rules, one value at a time. refusal is what CUE said.
func (e *evaluation) diagnose(refusal error) []Mistake {
	v, err := e.buildWith(openSchema(), "package "+packageName+"\n")
	if err != nil {
		return e.loadMistakes(err)
	}
	e.values = []cue.Value{v}
	x := &explainer{e: e, reported: map[string]bool{}}
	if err := v.Validate(); err != nil {
		x.mistakes = e.raw(err)
		for _, m := range x.mistakes {
			x.reported[m.Path] = true
		}
	}
	x.explain(configRule(), nil, v, v)
	if len(x.mistakes) == 0 {
		if err := v.Validate(cue.Concrete(true)); err != nil {
			refusal = err
		}
		x.mistakes = e.raw(refusal)
	}
	return e.sorted(x.mistakes)
}

// openSchema has the schema's definitions, each allowing anything, so that files which import it can be evaluated without it.
func openSchema() string {
	var b strings.Builder
	b.WriteString("package schema\n")
	f, err := parser.ParseFile("schema.cue", schema.Source())
	if err != nil {
		panic(err) // the schema is embedded, and a test reads it
	}
	for _, d := range f.Decls {
		if fd, ok := d.(*ast.Field); ok {
			name, _, _ := ast.LabelName(fd.Label)
			fmt.Fprintf(&b, "%s: _\n", name)
		}
	}
	return b.String()
}

// raw renders CUE's own messages, one a path, with the user's positions.
func (e *evaluation) raw(err error) []Mistake {
	var ms []Mistake
	seen := map[string]bool{}
	for _, err := range cueerrors.Errors(err) {
		m := Mistake{Path: strings.Join(err.Path(), "."), Message: err.Error()}
		m.Message = strings.TrimSpace(strings.TrimPrefix(strings.Join(strings.Fields(m.Message), " "), m.Path+":"))
		if strings.Contains(m.Message, "errors in empty disjunction") || seen[m.Path] && m.Path != "" {
			continue
		}
		seen[m.Path] = true
		var others []string
		for _, p := range cueerrors.Positions(err) {
			s := e.position(p)
			switch {
			case s == "":
			case m.Pos == "":
				m.Pos = s
			case s != m.Pos && !slices.Contains(others, s):
				others = append(others, s)
			}
		}
		if m.Pos == "" {
			m.Pos = e.locate(m.Path)
		}
		if len(others) > 0 {
			m.Message += " (see " + strings.Join(others, ", ") + ")"
		}
		ms = append(ms, m)
	}
	return ms
}

// sorted puts mistakes in the order of the files' lines, each once.
func (e *evaluation) sorted(ms []Mistake) []Mistake {
	slices.SortStableFunc(ms, func(a, b Mistake) int {
		return cmp.Or(comparePositions(a.Pos, b.Pos), strings.Compare(a.Path, b.Path), strings.Compare(a.Message, b.Message))
	})
	ms = slices.Compact(ms)
	if n := len(ms) - maxMistakes; n > 0 {
		ms = append(ms[:maxMistakes], Mistake{Message: fmt.Sprintf("and %d more mistakes", n)})
	}
	return ms
}

// maxMistakes is how many anybody reads: a mistake in a template is told for each of its uses.
const maxMistakes = 50

func comparePositions(a, b string) int {
	fa, la, ca := splitPosition(a)
	fb, lb, cb := splitPosition(b)
	return cmp.Or(strings.Compare(fa, fb), cmp.Compare(la, lb), cmp.Compare(ca, cb))
}

func splitPosition(s string) (file string, line, col int) {
	parts := strings.Split(s, ":")
	if len(parts) < 3 {
		return s, 0, 0
	}
	line, _ = strconv.Atoi(parts[len(parts)-2])
	col, _ = strconv.Atoi(parts[len(parts)-1])
	return strings.Join(parts[:len(parts)-2], ":"), line, col
}

// locate is the position of the field at path, or of what encloses it, in the user's files.
func (e *evaluation) locate(path string) string {
	p := cue.ParsePath(path)
	if path == "" || p.Err() != nil {
		return ""
	}
	for sel := p.Selectors(); len(sel) > 0; sel = sel[:len(sel)-1] {
		if f, offset := e.hoisted.position(sel); f != nil {
			before := f.source[:offset]
			return fmt.Sprintf("%s:%d:%d", e.place(f.name), 1+strings.Count(before, "\n"), offset-strings.LastIndexByte(before, '\n'))
		}
		for _, v := range e.values {
			if s := e.position(e.valuePos(v.LookupPath(cue.MakePath(sel...)))); s != "" {
				return s
			}
		}
	}
	return ""
}

// valuePos is the position of a value in the user's files: its own, or that of the first of the values that it is made of.
func (e *evaluation) valuePos(v cue.Value) token.Pos {
	if !v.Exists() {
		return token.NoPos
	}
	if p := v.Pos(); e.isUsers(p) {
		return p
	}
	_, operands := v.Expr()
	for _, o := range operands {
		if p := o.Pos(); e.isUsers(p) {
			return p
		}
	}
	return token.NoPos
}
