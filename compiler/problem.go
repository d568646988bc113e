package compiler

import (
	"strings"
)

// Problem is a mistake that only the compiler sees: two pods with one address, an unknown node. Path and Other are
// CUE paths into the configuration, such as `pods.web.addresses[0]` or `pods."a.b".mtu`; Other is the second place,
// where two places clash, or is empty. Source.Locate turns the paths into positions in the user's files.
type Problem struct {
	Path    string
	Other   string
	Message string

	// Pos and OtherPos are file:line:col as Locate found them, or empty.
	Pos      string
	OtherPos string
}

// Error says where, what, and where the other place is.
func (p *Problem) Error() string {
	var b strings.Builder
	if p.Pos != "" {
		b.WriteString(p.Pos + ": ")
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	switch {
	case p.OtherPos != "":
		b.WriteString(" (see " + p.OtherPos + ")")
	case p.Other != "":
		b.WriteString(" (see " + p.Other + ")")
	}
	return b.String()
}
