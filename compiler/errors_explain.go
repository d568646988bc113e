package compiler

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"cuelang.org/go/cue"
)

// explainer says in plain words what the schema doesn't allow in a value that was evaluated without it. CUE's own messages tell
// of empty disjunctions and of places in the schema; the user wrote neither.
type explainer struct {
	e        *evaluation
	reported map[string]bool // paths whose mistake is known already
	mistakes []Mistake
}

// nouns name what the schema's definitions hold.
var nouns = map[string]string{
	"#Name":              "a name of at most 63 lower-case letters, digits and dashes",
	"#Interface":         "a device name of at most 15 letters, digits, dots, dashes and underscores",
	"#IP":                "an IP address, such as 10.0.0.10 or fd00::10",
	"#CIDR":              "an address range, such as 10.0.0.0/24 or fd00::/64",
	"#Duration":          "a duration, such as 500ms, 2s or 1h30m",
	"#Path":              "an absolute path",
	"#Sysctl":            "a sysctl of a network namespace, such as net.ipv4.tcp_keepalive_time",
	"#PortRange":         "a range of ports, such as 30000-32767",
	"#CPUs":              "spread, or a list of processors, such as 0-3,6",
	"#Domain":            "a domain name",
	"#Rate":              "a rate in bit/s, such as 100M",
	"#CongestionControl": "auto or the name of a congestion control algorithm",
}

// noun names what r allows.
func (r *rule) noun() string {
	if n, ok := nouns[r.def]; ok {
		return n
	}
	switch {
	case r.alternatives != nil:
		var all []string
		for _, a := range r.alternatives {
			all = append(all, a.noun())
		}
		return strings.Join(all, ", or ")
	case len(r.words) > 0:
		return "one of " + strings.Join(r.words, ", ")
	}
	switch r.kind {
	case intKind, numberKind:
		what := "a whole number"
		if r.kind == numberKind {
			what = "a number"
		}
		switch low := strconv.FormatFloat(r.min, 'f', -1, 64); {
		case !math.IsInf(r.max, 1) && r.above:
			return fmt.Sprintf("%s above %s, and %s at most", what, low, strconv.FormatFloat(r.max, 'f', -1, 64))
		case !math.IsInf(r.max, 1):
			return fmt.Sprintf("%s from %s to %s", what, low, strconv.FormatFloat(r.max, 'f', -1, 64))
		}
		return what
	case boolKind:
		return "true or false"
	case listKind:
		return "a list"
	case structKind, mapKind:
		return "a struct"
	}
	for _, re := range r.matches {
		return "a string that matches " + re.String()
	}
	return "a string"
}

// accepts are CUE's kinds that r allows.
func (r *rule) accepts() cue.Kind {
	var k cue.Kind
	for _, a := range r.alternatives {
		k |= a.accepts()
	}
	switch r.kind {
	case stringKind:
		k |= cue.StringKind
	case intKind:
		k |= cue.IntKind
	case numberKind:
		k |= cue.NumberKind
	case boolKind:
		k |= cue.BoolKind
	case listKind:
		k |= cue.ListKind
	case structKind, mapKind:
		k |= cue.StructKind
	}
	return k
}

// explain walks v, which should obey r; within is the nearest enclosing value that has a position.
func (x *explainer) explain(r *rule, path []cue.Selector, v, within cue.Value) {
	here := cue.MakePath(path...).String()
	if x.reported[here] {
		return
	}
	k := v.IncompleteKind()
	if k == cue.BottomKind {
		return // a mistake without the schema, and told as such
	}
	if k&r.accepts() == 0 {
		x.add(path, v, within, fmt.Sprintf("want %s, not %s", r.noun(), describe(v)))
		return
	}
	switch r.kind {
	case structKind:
		x.explainStruct(r, path, v, within)
		return
	case mapKind:
		for name, f := range x.fields(v) {
			p := append(slices.Clip(path), cue.Str(name))
			if !r.key.allowsString(name) {
				x.add(p, f, v, fmt.Sprintf("the name %q is not %s", name, r.key.noun()))
			}
			x.explain(r.value, p, f, v)
		}
		return
	case listKind:
		it, err := v.List()
		if err != nil {
			return
		}
		for i := 0; it.Next(); i++ {
			x.explain(r.elem, append(slices.Clip(path), cue.Index(i)), it.Value(), v)
		}
		return
	}
	if !v.IsConcrete() {
		if d, ok := v.Default(); ok && d.IsConcrete() {
			v = d
		} else {
			x.add(path, v, within, fmt.Sprintf("the value is not complete: %s", short(v)))
			x.hintTag()
			return
		}
	}
	if !r.allows(v) {
		message := fmt.Sprintf("%s is not %s", short(v), r.noun())
		if s, err := v.String(); err == nil {
			if near := nearest(s, r.words); near != "" {
				message += "; did you mean " + near + "?"
			}
		}
		x.add(path, v, within, message)
	}
}

func (x *explainer) explainStruct(r *rule, path []cue.Selector, v, within cue.Value) {
	fields := x.fields(v)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		p := append(slices.Clip(path), cue.Str(name))
		fr, known := r.fields[name]
		if !known {
			message := fmt.Sprintf("unknown field %q", name)
			all := slices.Sorted(maps.Keys(r.fields))
			if near := nearest(name, all); near != "" {
				message += "; did you mean " + near + "?"
			} else {
				message += "; known here are " + strings.Join(all, ", ")
			}
			x.add(p, fields[name], v, message)
			continue
		}
		x.explain(fr.rule, p, fields[name], v)
	}
	for _, name := range r.required {
		if _, ok := fields[name]; !ok {
			x.add(path, v, within, name+" is required and missing")
		}
	}
}

// fields are the regular fields of v.
func (x *explainer) fields(v cue.Value) map[string]cue.Value {
	m := map[string]cue.Value{}
	it, err := v.Fields()
	if err != nil {
		return m
	}
	for it.Next() {
		m[it.Selector().Unquoted()] = it.Value()
	}
	return m
}

// allows tells whether r allows the concrete scalar v.
func (r *rule) allows(v cue.Value) bool {
	for _, a := range r.alternatives {
		if v.Kind()&a.accepts() != 0 && a.allows(v) {
			return true
		}
	}
	switch r.kind {
	case stringKind:
		s, err := v.String()
		return err == nil && r.allowsString(s)
	case intKind:
		n, err := v.Int64()
		return err == nil && n == int64(int(n)) && r.allowsInt(int(n))
	case numberKind:
		n, err := v.Float64()
		return err == nil && r.inRange(n)
	case boolKind:
		return v.Kind() == cue.BoolKind
	}
	return false
}

func (x *explainer) add(path []cue.Selector, v, within cue.Value, message string) {
	p := cue.MakePath(path...).String()
	if p == "_|_" || len(path) == 0 {
		p = ""
	}
	pos := x.e.position(x.e.valuePos(v))
	for sel := path; pos == "" && len(sel) > 0; sel = sel[:len(sel)-1] {
		pos = x.e.locate(cue.MakePath(sel...).String())
	}
	if pos == "" {
		pos = x.e.position(x.e.valuePos(within))
	}
	x.mistakes = append(x.mistakes, Mistake{Pos: pos, Path: p, Message: message})
}

// hintTag says of the last mistake that a tag is what is missing, if its line has one.
func (x *explainer) hintTag() {
	m := &x.mistakes[len(x.mistakes)-1]
	file, line, _ := splitPosition(m.Pos)
	for _, f := range x.e.files {
		if x.e.place(f.name) != file {
			continue
		}
		lines := strings.Split(f.source, "\n")
		if line >= 1 && line <= len(lines) {
			if _, tag, ok := strings.Cut(lines[line-1], "@tag("); ok {
				name, _, _ := strings.Cut(strings.FieldsFunc(tag, func(r rune) bool { return r == ',' || r == ')' })[0], " ")
				m.Message += "; set its tag: -t " + name + "=VALUE"
			}
		}
	}
}

// describe says what v is, where its kind is wrong.
func describe(v cue.Value) string {
	switch v.IncompleteKind() {
	case cue.StringKind:
		return "the string " + short(v)
	case cue.IntKind, cue.FloatKind, cue.NumberKind:
		return "the number " + short(v)
	case cue.StructKind:
		return "a struct"
	case cue.ListKind:
		return "a list"
	case cue.BytesKind:
		return "bytes"
	}
	return short(v)
}

// short is v as CUE writes it, cut where that is long.
func short(v cue.Value) string {
	s := []rune(strings.Join(strings.Fields(fmt.Sprint(v)), " "))
	if len(s) > 80 {
		s = append(s[:77], []rune("...")...)
	}
	return string(s)
}

// nearest is the word that s was probably meant to be, or "".
func nearest(s string, words []string) string {
	best, at := "", 1+min(2, len(s)/3)
	for _, w := range words {
		if d := distance(strings.ToLower(s), strings.ToLower(w)); d < at {
			best, at = w, d
		}
	}
	return best
}

// distance counts the insertions, deletions, substitutions and swaps of neighbours that make b of a.
func distance(a, b string) int {
	if len(a) > 100 || len(b) > 100 {
		return 100
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		for j := range rows[i] {
			switch {
			case i == 0:
				rows[i][j] = j
				continue
			case j == 0:
				rows[i][j] = i
				continue
			}
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
