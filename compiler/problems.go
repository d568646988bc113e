package compiler

import (
	"fmt"

	"github.com/hashicorp/go-multierror"
)

// problems collects mistakes, each one once, in the order in which they are found.
type problems struct {
	list []*Problem
	seen map[Problem]bool
}

// add notes a mistake at path; other is the second place, or "".
func (ps *problems) add(path, other, format string, args ...any) {
	p := Problem{Path: path, Other: other, Message: fmt.Sprintf(format, args...)}
	if ps.seen[p] {
		return
	}
	if ps.seen == nil {
		ps.seen = map[Problem]bool{}
	}
	ps.seen[p] = true
	ps.list = append(ps.list, &p)
}

// err is nil if there are none, else a *multierror.Error.
func (ps *problems) err() error {
	if len(ps.list) == 0 {
		return nil
	}
	all := &multierror.Error{}
	for _, p := range ps.list {
		all.Errors = append(all.Errors, p)
	}
	return all
}
