package compiler

import (
	"errors"
	"strings"

	"github.com/hashicorp/go-multierror"
)

// Mistake is one mistake in the user's files that evaluating them shows. It travels from the child to its parent.
type Mistake struct {
	// Pos is file:line:col, relative to the working directory where the file is below it; empty where there is no place.
	Pos string
	// Path is the field, as CUE writes it, such as pods.web.mtu; empty where there is none.
	Path    string
	Message string
}

// Error says where and what.
func (m *Mistake) Error() string {
	var b strings.Builder
	for _, s := range []string{m.Pos, m.Path} {
		if s != "" {
			b.WriteString(s + ": ")
		}
	}
	b.WriteString(m.Message)
	return b.String()
}

// formatErrors prints one mistake a line, as compilers do.
func formatErrors(errs []error) string {
	lines := make([]string, len(errs))
	for i, err := range errs {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// problemsIn lists the Problems in err.
func problemsIn(err error) []*Problem {
	var merr *multierror.Error
	if errors.As(err, &merr) {
		var ps []*Problem
		for _, err := range merr.Errors {
			ps = append(ps, problemsIn(err)...)
		}
		return ps
	}
	var p *Problem
	if errors.As(err, &p) {
		return []*Problem{p}
	}
	return nil
}
