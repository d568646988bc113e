package compiler

import (
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"cuelang.org/go/cue/literal"
	"cuelang.org/go/cue/token"

	"plumb.internal/plumb/schema"
)

// literalReader reads the plainest part of CUE from text: fields with fixed names and literals, held apart by commas or newlines. It
// decodes what the schema's rules allow as it goes. There is no syntax tree, which is most of the time and memory that CUE's parser
// takes. What it refuses may be anything, valid or not, and is for CUE to read.
type literalReader struct {
	text     string
	at       int
	scratch  []byte
	optional bool   // the last label had a question mark
	sets     uint64 // the fields of the last struct, by index in the Go struct
}

// plainEntries reads a file that is plain literals throughout. False means that it isn't.
func plainEntries(f *sourceFile) bool {
	if !utf8.ValidString(f.source) || strings.IndexByte(f.source, 0) >= 0 || strings.Contains(f.source, "\ufeff") {
		return false
	}
	r := literalReader{text: f.source}
	var all []entry
	if r.gap(); r.word() != "package" {
		return false
	}
	if r.blank(); r.word() != packageName || !r.ended() {
		return false
	}
	for r.gap(); r.at < len(r.text); r.gap() {
		from, have := r.at, len(all)
		field, ok := r.label()
		fr, known := configRule().fields[field]
		switch {
		case !ok || !known || r.optional:
			return false
		case fr.kind != mapKind:
			all = append(all, entry{entryName: entryName{field: field}, file: f, from: from})
			ok = r.entry(&all[have])
		default:
			ok = r.fields(func(key string, from int) bool {
				all = append(all, entry{entryName: entryName{field, key}, file: f, from: from, optional: r.optional})
				return key != "" && r.entry(&all[len(all)-1])
			}) && len(all) > have
		}
		if !ok || !r.ended() {
			return false
		}
	}
	f.entries = all
	return true
}

// entry reads the value of e, whose label was read, and tells whether the schema allows it.
func (r *literalReader) entry(e *entry) bool {
	config := reflect.TypeFor[schema.Config]()
	rule, t := configRule().fields[e.field].rule, config.Field(structFields(config)[e.field]).Type
	if e.key != "" {
		if !rule.key.allowsString(e.key) {
			return false
		}
		rule, t = rule.value, t.Elem()
	}
	v := reflect.New(t).Elem()
	r.sets = 0
	if !r.value(rule, v) {
		return false
	}
	e.to, e.literal, e.sets = r.at, true, r.sets
	if e.key != "" || !v.IsZero() {
		r.scratch = appendWire(r.scratch[:0], v)
		e.wire = string(r.scratch)
	}
	return true
}

// value decodes what comes next into dst, which is zero. After false, dst holds rubbish.
func (r *literalReader) value(rule *rule, dst reflect.Value) bool {
	if rule.alternatives != nil {
		at := r.at
		for _, a := range rule.alternatives {
			if r.value(a, dst) {
				return true
			}
			r.at = at
			dst.SetZero()
		}
		return false
	}
	if dst.Kind() == reflect.Pointer {
		dst.Set(reflect.New(dst.Type().Elem()))
		dst = dst.Elem()
	}
	switch rule.kind {
	case stringKind:
		s, ok := r.string()
		if dst.Kind() == reflect.Interface {
			dst.Set(reflect.ValueOf(s))
		} else {
			dst.SetString(s)
		}
		return ok && rule.allowsString(s)
	case intKind:
		n, ok := r.int()
		if dst.Kind() == reflect.Interface {
			dst.Set(reflect.ValueOf(n))
		} else {
			dst.SetInt(int64(n))
		}
		return ok && rule.allowsInt(n)
	case numberKind:
		n, ok := r.float()
		dst.SetFloat(n)
		return ok && rule.inRange(n)
	case boolKind:
		w := r.word()
		dst.SetBool(w == "true")
		return w == "true" || w == "false"
	case listKind:
		return r.list(rule, dst)
	case structKind:
		return r.structure(rule, dst)
	case mapKind:
		return r.mapping(rule, dst)
	}
	return false
}

func (r *literalReader) list(rule *rule, dst reflect.Value) bool {
	if !r.byte('[') {
		return false
	}
	for r.gap(); !r.byte(']'); r.gap() {
		if k := rule.elem.kind; k == structKind && !strings.HasPrefix(r.text[r.at:], "{") {
			return false // a: b: 1 is no element
		}
		n := dst.Len()
		dst.Grow(1)
		dst.SetLen(n + 1)
		if !r.value(rule.elem, dst.Index(n)) {
			return false
		}
		if r.blank(); !r.byte(',') { // CUE ends an element at a newline too, but then allows nothing but the end of the list
			r.gap()
			return r.byte(']')
		}
	}
	return true
}

func (r *literalReader) structure(rule *rule, dst reflect.Value) bool {
	fields := structFields(dst.Type())
	var seen uint64 // by index in the Go struct, all of which have fewer fields than bits
	ok := r.fields(func(name string, _ int) bool {
		fr, known := rule.fields[name]
		i, have := fields[name]
		if !known || !have || r.optional || seen&(1<<i) != 0 {
			return false
		}
		seen |= 1 << i
		return r.value(fr.rule, dst.Field(i))
	})
	for _, name := range rule.required {
		ok = ok && seen&(1<<fields[name]) != 0
	}
	r.sets = seen
	return ok
}

func (r *literalReader) mapping(rule *rule, dst reflect.Value) bool {
	m := reflect.MakeMap(dst.Type())
	n := 0
	ok := r.fields(func(name string, _ int) bool {
		n++
		e := reflect.New(dst.Type().Elem()).Elem()
		if r.optional || !rule.key.allowsString(name) || !r.value(rule.value, e) {
			return false
		}
		m.SetMapIndex(reflect.ValueOf(name), e)
		return true
	})
	if n > 0 {
		dst.Set(m)
	}
	return ok && m.Len() == n // else a key is there twice, which is CUE's to unify
}

// fields calls each at the value of every field of a struct, with the field's name and where its label begins.
func (r *literalReader) fields(each func(name string, from int) bool) bool {
	if !r.byte('{') { // a: b: 1
		from := r.at
		name, ok := r.label()
		return ok && each(name, from)
	}
	for r.gap(); !r.byte('}'); r.gap() {
		from := r.at
		name, ok := r.label()
		if !ok || !each(name, from) || !r.ended() {
			return false
		}
	}
	return true
}

// label reads a fixed name and the colon behind it, perhaps with a question mark between.
func (r *literalReader) label() (string, bool) {
	name := r.word()
	ok := name != "" && token.Lookup(name) == token.IDENT
	if name == "" {
		name, ok = r.string()
	}
	r.optional = r.byte('?')
	ok = ok && r.byte(':')
	r.blank()
	return name, ok
}

// ended reads what ends a field: a comma, a newline, or nothing before a brace or the end of the file.
func (r *literalReader) ended() bool {
	r.blank()
	return r.at == len(r.text) || r.byte(',') || r.byte('\n') || r.text[r.at] == '}' || strings.HasPrefix(r.text[r.at:], "//")
}

// gap skips blanks, newlines and comments.
func (r *literalReader) gap() {
	for {
		switch r.blank(); {
		case r.byte('\n'):
		case strings.HasPrefix(r.text[r.at:], "//"):
			n := strings.IndexByte(r.text[r.at:], '\n')
			if n < 0 {
				n = len(r.text) - r.at
			}
			r.at += n
		default:
			return
		}
	}
}

func (r *literalReader) blank() {
	for r.at < len(r.text) && (r.text[r.at] == ' ' || r.text[r.at] == '\t' || r.text[r.at] == '\r') {
		r.at++
	}
}

func (r *literalReader) byte(c byte) bool {
	if r.at == len(r.text) || r.text[r.at] != c {
		return false
	}
	r.at++
	return true
}

// run reads the bytes that are in a class, which may be none.
func (r *literalReader) run(class func(c byte) bool) string {
	from := r.at
	for r.at < len(r.text) && class(r.text[r.at]) {
		r.at++
	}
	return r.text[from:r.at]
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// word reads an identifier of ASCII letters, digits and underscores, or a keyword; it is empty where there is none.
func (r *literalReader) word() string {
	if r.at < len(r.text) && (isDigit(r.text[r.at]) || r.text[r.at] == '_') {
		return "" // a number, or a hidden field
	}
	return r.run(func(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || isDigit(c) || c == '_' })
}

// string reads a string in one pair of quotes. It is a part of the text unless something is escaped.
func (r *literalReader) string() (string, bool) {
	from := r.at
	if !r.byte('"') || strings.HasPrefix(r.text[r.at:], `""`) {
		return "", false
	}
	for escaped := false; r.at < len(r.text); r.at++ {
		switch c := r.text[r.at]; {
		case c == '"':
			r.at++
			if !escaped {
				return r.text[from+1 : r.at-1], true
			}
			s, err := literal.Unquote(r.text[from:r.at])
			return s, err == nil
		case c == '\\':
			escaped = true
			if r.at++; r.at == len(r.text) || strings.IndexByte(`nt\"`, r.text[r.at]) < 0 {
				return "", false
			}
		case c < ' ':
			return "", false
		}
	}
	return "", false
}

func (r *literalReader) int() (int, bool) {
	s := r.run(isDigit)
	if len(s) > 9 || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	n, err := strconv.Atoi(s)
	return n, err == nil
}

// float reads a number that has digits on both sides of a point: another may be an integer, which decodes differently.
func (r *literalReader) float() (float64, bool) {
	from := r.at
	whole := r.run(isDigit)
	if whole == "" || len(whole) > 1 && whole[0] == '0' || !r.byte('.') || r.run(isDigit) == "" || r.at-from > 17 {
		return 0, false
	}
	n, err := strconv.ParseFloat(r.text[from:r.at], 64)
	return n, err == nil
}
