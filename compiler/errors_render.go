package compiler

import (
	"fmt"
	"path/filepath"
	"strings"

	"cuelang.org/go/cue"
	cueerrors "cuelang.org/go/cue/errors"
	"cuelang.org/go/cue/token"
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
		ms = append(ms, Mistake{Pos: e.position(err.Position()), Message: fmt.Sprintf(format, args...)})
	}
	return ms
}

// mistakes renders what CUE says about the package.
func (e *evaluation) mistakes(v cue.Value, err error) []Mistake {
	var ms []Mistake
	for _, err := range cueerrors.Errors(err) {
		m := Mistake{Path: strings.Join(err.Path(), "."), Message: err.Error()}
		for _, p := range cueerrors.Positions(err) {
			if m.Pos = e.position(p); m.Pos != "" {
				break
			}
		}
		ms = append(ms, m)
	}
	return ms
}

// locate is the position of the field at path, or of what encloses it, in the user's files.
func (e *evaluation) locate(path string) string {
	p := cue.ParsePath(path)
	if path == "" || p.Err() != nil {
		return ""
	}
	for sel := p.Selectors(); len(sel) > 0; sel = sel[:len(sel)-1] {
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
