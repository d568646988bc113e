package resource

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// TextOptions say how a plan is printed.
type TextOptions struct {
	Color bool // ANSI colours
	Width int  // columns to wrap at; 0: never wrap
}

// WriteText writes the plan as people read it: the node's own objects first, then pod by pod, each in the order of the
// apply, one object a line as `ip` prints it. Nothing is left out, however long the plan is.
func (p *Plan) WriteText(w io.Writer, opt TextOptions) error {
	t := &text{opt: opt}
	for _, g := range groups(p.Changes) {
		t.group(g)
	}
	t.conflicts(p.Conflicts)
	t.choices(p.Choices)
	t.warnings(p.Warnings)
	if p.Empty() && len(p.Conflicts) == 0 {
		t.line(0, "no changes: the host is as the files say")
	} else {
		s := p.Summary()
		line := fmt.Sprintf("plan: %d to create, %d to update, %d to replace, %d to delete", s.Create, s.Update, s.Replace, s.Delete)
		if n := len(p.Conflicts); n > 0 {
			line += fmt.Sprintf("; nothing will be touched: conflicts: %d", n)
		}
		t.line(0, t.paint(bold, line))
		if cuts := p.NeedsDisruption(); len(cuts) > 0 {
			t.line(0, t.paint(yellow, fmt.Sprintf("%d of them disrupt; apply needs --allow-disruption", len(cuts))))
		}
	}
	_, err := w.Write(t.b.Bytes())
	return err
}

// The colours of a text plan.
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

// colors are the signs' colours.
var colors = map[Action]string{Create: green, Update: cyan, Replace: yellow, Delete: red}

// text collects the lines of a plan.
type text struct {
	opt TextOptions
	b   bytes.Buffer
}

// group is what changes in one pod, or on the node itself (pod "").
type group struct {
	pod     string
	changes []Change
}

// groups sorts the changes by pod and keeps their order inside each.
func groups(changes []Change) []group {
	byPod := map[string]int{}
	var gs []group
	for _, c := range changes {
		pod := c.Pod()
		i, ok := byPod[pod]
		if !ok {
			i = len(gs)
			byPod[pod] = i
			gs = append(gs, group{pod: pod})
		}
		gs[i].changes = append(gs[i].changes, c)
	}
	slices.SortFunc(gs, func(a, b group) int { return cmp.Compare(a.pod, b.pod) })
	return gs
}

// group prints one pod, or the node itself.
func (t *text) group(g group) {
	title := "node"
	if g.pod != "" {
		title = "pod " + g.pod
	}
	t.line(0, t.paint(bold, title))
	for _, c := range g.changes {
		t.change(g.pod, c)
	}
	t.b.WriteByte('\n')
}

// change prints one change: its sign, the object, and what differs below it.
func (t *text) change(pod string, c Change) {
	sign := strings.Repeat(" ", 3-len(c.Action.Symbol())) + c.Action.Symbol()
	line := t.paint(colors[c.Action], sign) + " " + c.describe()
	if pod != "" && c.ID.pod() == "" {
		line += " (on the node)" // the host's route to the pod stands among the pod's own objects
	}
	if c.Disruption.Level() > 0 {
		line += t.paint(yellow, "  ["+c.Disruption.Text()+"]")
	}
	if reason := c.shortReason(pod); reason != "" {
		line += t.paint(dim, "  # "+reason)
	}
	t.line(2, line)
	for i, f := range c.Fields {
		if i == shownFields {
			t.line(8, fmt.Sprintf("and %d more", len(c.Fields)-i))
			break
		}
		t.line(8, fmt.Sprintf("%s: %s -> %s", f.Name, orNone(f.Before), orNone(f.After)))
	}
}

// shortReason is the reason without what stands around it: the list of fields below, the pod above that asks for it.
func (c Change) shortReason(pod string) string {
	switch {
	case c.Action == Update:
		return ""
	case c.Action == Create && pod != "" && c.askedBy(pod):
		return ""
	case c.Action == Replace && len(c.Fields) > 0 && strings.HasPrefix(c.Reason, cantChange):
		return cantChange
	}
	return c.Reason
}

// askedBy reports whether it is the pod's own entry that asks for the object.
func (c Change) askedBy(pod string) bool {
	if c.After == nil {
		return false
	}
	for _, entry := range []string{"pods." + pod, "pods." + strconv.Quote(pod)} {
		if rest, ok := strings.CutPrefix(c.After.Origin(), entry); ok && (rest == "" || rest[0] == '.') {
			return true
		}
	}
	return false
}

// describe is the object as `ip` prints it, as it will be or, where it goes, as it was.
func (c Change) describe() string {
	switch {
	case c.After != nil:
		return Describe(c.After)
	case c.Before != nil:
		return Describe(c.Before)
	}
	return string(c.ID.Kind) + " " + c.ID.Name
}

// orNone makes an absent value visible.
func orNone(v string) string {
	if v == "" {
		return "none"
	}
	return v
}

// conflicts prints whose objects are in the way.
func (t *text) conflicts(cs []Conflict) {
	if len(cs) == 0 {
		return
	}
	t.line(0, t.paint(bold+";"+red, "conflicts: somebody else's objects are in the way, nothing is touched while they are there"))
	for _, c := range cs {
		t.line(2, t.paint(red, "!")+" "+c.ID.String())
		t.line(4, "in the way: "+c.Foreign+" ("+cmp.Or(c.Owner, Unmarked)+")")
		if c.Fix != "" {
			t.line(4, "fix: "+c.Fix)
		}
	}
	t.b.WriteByte('\n')
}

// choices prints what "auto" became, and why.
func (t *text) choices(cs []Choice) {
	if len(cs) == 0 {
		return
	}
	t.line(0, t.paint(bold, "choices"))
	for _, c := range cs {
		line := c.Subject + ": "
		if c.Wanted != c.Chosen {
			line += c.Wanted + " -> "
		}
		line += c.Chosen
		if c.Reason != "" {
			line += ": " + c.Reason
		}
		t.line(2, line)
	}
	t.b.WriteByte('\n')
}

// warnings prints what a person should know before.
func (t *text) warnings(ws []string) {
	for _, w := range ws {
		t.line(0, t.paint(yellow, "warning:")+" "+w)
	}
	if len(ws) > 0 {
		t.b.WriteByte('\n')
	}
}

// paint colours s where colours are wanted.
func (t *text) paint(color, s string) string {
	if !t.opt.Color || color == "" {
		return s
	}
	return "\x1b[" + color + "m" + s + "\x1b[0m"
}

// line prints one line, wrapped between words at the width, the rest indented further. A word is never cut: addresses and
// paths stay whole for copying.
func (t *text) line(indent int, s string) {
	pad := strings.Repeat(" ", indent)
	if t.opt.Width <= 0 || indent+columns(s) <= t.opt.Width {
		t.b.WriteString(pad + s + "\n")
		return
	}
	more := pad + "      "
	col, start := 0, true
	for i, word := range strings.Split(s, " ") {
		switch {
		case i == 0:
			t.b.WriteString(pad)
			col = indent
		case !start && col+1+columns(word) > t.opt.Width:
			t.b.WriteString("\n" + more)
			col, start = len(more), true
			if word == "" {
				continue
			}
		default:
			t.b.WriteByte(' ')
			col++
		}
		t.b.WriteString(word)
		col += columns(word)
		start = start && word == ""
	}
	t.b.WriteByte('\n')
}

// columns is the width of s on a terminal: colour sequences take none.
func columns(s string) int {
	n := 0
	for {
		i := strings.Index(s, "\x1b[")
		if i < 0 {
			return n + utf8.RuneCountInString(s)
		}
		n += utf8.RuneCountInString(s[:i])
		j := strings.IndexByte(s[i:], 'm')
		if j < 0 {
			return n
		}
		s = s[i+j+1:]
	}
}
