package compiler

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cuelang.org/go/cue"
	"cuelang.org/go/cue/cuecontext"
	gocmp "github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/schema"
)

// evaluateHere evaluates a repository in this process, hoisting or not.
func evaluateHere(dir string, noHoist bool) (*evaluation, []byte, []Mistake) {
	e := &evaluation{request: request{Dir: dir, Cwd: dir}, noHoist: noHoist, terse: true, reading: func(time.Duration) error { return nil }}
	wire, mistakes := e.run()
	return e, wire, mistakes
}

// agree fails unless the two ways to evaluate a repository agree, and tells whether it is valid and whether anything was hoisted.
func agree(t *testing.T, dir, text string) (valid, hoisted bool) {
	t.Helper()
	fast, fastWire, fastMistakes := evaluateHere(dir, false)
	slow, slowWire, slowMistakes := evaluateHere(dir, true)
	hoisted = fast.hoisted != nil && len(fast.hoisted.entries) > 0
	if (len(fastMistakes) > 0) != (len(slowMistakes) > 0) {
		t.Errorf("hoisted: %v\nwhole: %v\n%s", fastMistakes, slowMistakes, text)
		return false, hoisted
	}
	if len(fastMistakes) > 0 {
		return false, hoisted
	}
	if !bytes.Equal(slowWire, fastWire) {
		var a, b schema.Config
		t.Errorf("whole and hoisted differ (%v, %v): %s\n%s", readWire(slowWire, &a), readWire(fastWire, &b), gocmp.Diff(a, b), text)
	}
	// Positions of scalars agree; that of a hoisted struct is its label's, which tells more.
	slow.values[0].Walk(nil, func(v cue.Value) {
		if path := v.Path().String(); v.IncompleteKind()&(cue.StructKind|cue.ListKind) == 0 {
			if a, b := slow.locate(path), fast.locate(path); a != b || a == "" && !strings.Contains(path, `""`) { // CUE can't parse a path with an empty name
				t.Errorf("%s is at %q, hoisted at %q\n%s", path, a, b, text)
			}
		}
	})
	return true, hoisted
}

// TestHoistAgrees holds the checks made here against CUE's, for generated repositories: each draws every field from values that
// are valid, nearly valid, and of other forms of CUE.
func TestHoistAgrees(t *testing.T) {
	const cases = 2000
	t.Parallel()
	root := t.TempDir()
	var valid, hoisted atomic.Int64
	each(cases, func(i int) {
		g := &generator{Rand: rand.New(rand.NewPCG(7, uint64(i)))}
		// Half of the repositories have no mistake, so that what is decoded is compared too.
		g.wild = i%2 == 0
		dir := filepath.Join(root, fmt.Sprint(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Error(err)
			return
		}
		var all strings.Builder
		for f := range 1 + g.IntN(2) {
			text := g.file()
			fmt.Fprintf(&all, "-- %d.cue --\n%s", f, text)
			writeFile(t, filepath.Join(dir, fmt.Sprintf("%d.cue", f)), []byte(text))
		}
		v, h := agree(t, dir, all.String())
		if v {
			valid.Add(1)
		}
		if h {
			hoisted.Add(1)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	v, h := valid.Load(), hoisted.Load()
	t.Logf("%d of %d are valid, %d hoist something", v, cases, h)
	if v < cases/5 || v > cases*4/5 || h < cases/3 {
		t.Errorf("the cases prove too little: %d of %d are valid, %d hoist something", v, cases, h)
	}
}

// TestPlainEntries damages valid files: what is still read without a syntax tree, CUE reads too, and as the same.
func TestPlainEntries(t *testing.T) {
	const cases = 20_000
	t.Parallel()
	var read atomic.Int64
	each(cases, func(i int) {
		g := &generator{Rand: rand.New(rand.NewPCG(13, uint64(i)))}
		text := []byte(g.file())
		for range g.IntN(3) {
			at := g.IntN(len(text))
			piece := g.one("", "", "\n", " ", ",", ":", "{", "}", "[", "]", "\"", "\\", "/", "//", "0", ".", "a", "_", "-", "\r", "\t", "\u2028", "\xff", "\x00", "\ufeff", "a: ", "?", "#", "'")
			text = slices.Replace(text, at, min(len(text), at+g.IntN(3)), []byte(piece)...)
		}
		f := &sourceFile{name: "/a.cue", source: string(text)}
		if !plainEntries(f) {
			return
		}
		read.Add(1)
		h := &hoisted{entries: map[entryName]*entry{}}
		for i := range f.entries {
			c := &f.entries[i]
			c.with = h.entries[c.entryName]
			h.entries[c.entryName] = c
		}
		for name, c := range h.entries {
			if nothing := c.unify(); c.stay {
				return // CUE's to unify
			} else if nothing {
				delete(h.entries, name)
			}
		}
		v := cuecontext.New().CompileBytes(text)
		var config schema.Config
		if err := cmp.Or(v.Validate(cue.Concrete(true)), decodeValue(reflect.ValueOf(&config).Elem(), v)); err != nil {
			t.Errorf("%v\n%q", err, text)
		} else if a, b := h.wire(new(schema.Config)), appendWire(nil, reflect.ValueOf(config)); !bytes.Equal(a, b) {
			t.Errorf("read as %q, by CUE as %q\n%q", a, b, text)
		}
	})
	if n := read.Load(); n < cases/5 {
		t.Errorf("the cases prove too little: %d of %d are read", n, cases)
	}
}

// FuzzHoist does what TestHoistAgrees does for any text.
func FuzzHoist(f *testing.F) {
	for i := range 50 {
		g := &generator{Rand: rand.New(rand.NewPCG(11, uint64(i))), wild: i%2 == 0}
		f.Add(g.file())
	}
	f.Add("package plumb\n\npods: a: {}\npods: [string]: mtu: 1500\n")
	f.Add("package plumb\n\npods: {a: mtu: 1500, b: mtu: a.mtu}\n")
	f.Add("package plumb\n\nlet x = pods\npods: a: mtu: 1500\nservices: x: {}\n")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 || strings.Contains(text, "@") || strings.Contains(text, "import") || strings.Contains(text, "for") {
			return // bombs are the guard's, and are tried in TestBombs
		}
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "a.cue"), []byte(text))
		agree(t, dir, text)
	})
}

// generator draws a repository from the schema's rules.
type generator struct {
	*rand.Rand
	wild bool
}

func (g *generator) one(words ...string) string { return words[g.IntN(len(words))] }

// rarely is true now and then, and never where only valid repositories are wanted.
func (g *generator) rarely(n int) bool { return g.wild && g.IntN(n) == 0 }

func (g *generator) file() string {
	var b strings.Builder
	b.WriteString(g.one("package plumb\n\n", "package plumb\n\n", "// a comment\n\npackage plumb // and one more\r\n", " package\tplumb, "))
	top := configRule()
	for _, name := range []string{"nodes", "pods", "podDefaults", "services", "routing", "tuning", "checks"} {
		for g.IntN(2) == 0 {
			g.field(&b, name, g.value(top.fields[name].rule))
			if !g.wild {
				break
			}
		}
	}
	if g.rarely(4) {
		b.WriteString(g.one(
			"pods: [string]: mtu: 1500\n", "pods: [string]: {}\n", "pods: {a: {}, b: mtu: a.mtu}\n", "pods: {a: mtu: 1500, z: labels: k: \"\\(a.mtu)\"}\n", "services: {a: {}, q: addresses: a.addresses}\n", "_x: pods\n", "let y = pods.a\npods: b: labels: k: \"\\(y.mtu)\"\n", "pods: a: mtu: 1500\n",
			"{pods: a: attach: \"veth\"}\n", "if true {pods: b: attach: \"auto\"}\n", "for n in [\"a\", \"z\"] {pods: (n): {}}\n", "_h: services: 5\n", "#d: 7\n",
			"services: X={}\n", "pods: \"\\(\"a\")\": mtu: 1400\n", "import \"strings\"\n", "...\n", "pods: {...}\n", "pods: _\n", "pods: a?: mtu: 1500\n", "pods: a!: mtu: 1500\n",
			"pods: {for n in [\"q\"] {(n): {}}}\n", "routing: mode: \"native\"\n", "routing: {}\n", "foo: 1\n"))
	}
	return b.String()
}

// key is the name of an entry; few, so that some meet.
func (g *generator) key(r *rule) string {
	switch {
	case r.def == "#Sysctl":
		return g.one(`"net.ipv4.ip_forward"`, `"net/core/somaxconn"`)
	case g.rarely(12):
		return g.one(`"A"`, `"a.b"`, "_a", "#a", `"_a"`, `"a\u0062"`, "a_b", `""`, `"-"`, `#"a"#`, "(\"a\")", strings.Repeat("a", 64), "null", "true", `"a-"`)
	}
	return g.one("a", "b", `"c-1"`, "d", `"0"`, "e", "f", "eth0")
}

func (g *generator) value(r *rule) string {
	if g.rarely(40) {
		return g.one("_", "null", "true", `"x"`, "5", "-1", "1.5", "[]", "{}", "'b'", `"veth" | "auto"`, `*"veth" | string`, "string", "int", "(1500)", "1500 & int", "+1500", "1_500", "0x5dc", "1.5K",
			`"a" + "b"`, `"""`+"\n\tauto\n\t"+`"""`, `#"auto"#`, `"\u0061uto"`, `"\(1)"`, "[...]", "{...}", "close({})", "1e3", "1500.0", "01", "len([1])", "_|_", `"auto" @x(y)`, `"fe80::1%eth0"`, "99999999999999999999")
	}
	if r.alternatives != nil {
		return g.value(r.alternatives[g.IntN(len(r.alternatives))])
	}
	switch r.kind {
	case stringKind:
		return fmt.Sprintf("%q", g.text(r))
	case intKind:
		if r.words != nil {
			return r.words[g.IntN(len(r.words))]
		}
		return g.number(r)
	case numberKind:
		return g.one("0.5", "0.0025", "1", "1.0", "0.1")
	case boolKind:
		return g.one("true", "false")
	case listKind:
		var b strings.Builder
		b.WriteString("[" + g.one("", " ", "\n", " // c\n"))
		n := g.IntN(3)
		for i := range n {
			if i > 0 {
				b.WriteString(g.separator(", ", ",", ",\n", " , // c\n\t"))
			}
			b.WriteString(g.value(r.elem))
		}
		if n > 0 {
			b.WriteString(g.separator("", "", " ", "\n", ",\n", " // c\n"))
		}
		return b.String() + "]"
	case mapKind:
		var b strings.Builder
		if g.IntN(4) == 0 {
			return g.key(r.key) + ": " + g.value(r.value)
		}
		b.WriteString("{" + g.one("", "\n", " // c\n\n"))
		for range g.IntN(4) {
			key := g.key(r.key)
			if r.value.kind == structKind && g.IntN(3) == 0 { // in two parts, as addresses.cue is one
				names := g.shuffledFields(r.value)
				cut := g.IntN(len(names) + 1)
				g.field(&b, key, g.structure(r.value, names[:cut]))
				if g.IntN(4) > 0 {
					key += "?"
				}
				g.field(&b, key, g.structure(r.value, names[cut:]))
			} else {
				g.field(&b, key, g.value(r.value))
			}
			if !g.wild {
				break
			}
		}
		return b.String() + "}"
	}
	return g.structure(r, g.shuffledFields(r))
}

// structure draws a struct of some of the named fields.
func (g *generator) structure(r *rule, names []string) string {
	var b strings.Builder
	b.WriteString("{" + g.one("", "\n", " // c\n\n"))
	if len(names) > 0 && g.rarely(20) { // right but for a list's elements
		return names[0] + ": " + g.value(r.fields[names[0]].rule)
	}
	for _, name := range names {
		fr := r.fields[name]
		if g.rarely(40) {
			name = g.one(name+"x", `"`+name+`"`, name+"?", "_"+name, name)
		} else if !fr.required && g.IntN(3) > 0 || g.rarely(40) {
			continue
		}
		g.field(&b, name, g.value(fr.rule))
		if g.rarely(60) {
			g.field(&b, name, g.value(fr.rule))
		}
	}
	return b.String() + "}"
}

func (g *generator) number(r *rule) string {
	if g.rarely(10) {
		return fmt.Sprint(int(r.min)-1, "")
	}
	if g.rarely(10) {
		return fmt.Sprint(int(r.max) + 1)
	}
	return fmt.Sprint(int(r.min) + g.IntN(int(r.max-r.min)+1))
}

func (g *generator) text(r *rule) string {
	if r.words != nil {
		return r.words[g.IntN(len(r.words))]
	}
	bad := g.rarely(20)
	switch r.def {
	case "#IP":
		if bad {
			return g.one("10.0.0", "10.0.0.256", "::g", "10.0.0.1/24", "", "fe80::1%a", "1.2.3.4 ", "::ffff:1.2.3.4", "010.0.0.1")
		}
		return g.one("10.0.0.1", "fd00::1", "::", "192.168.1.255")
	case "#CIDR":
		if bad {
			return g.one("10.0.0.0/33", "10.0.0.0", "fd00::/129", "10.0.0.0/024", "/8")
		}
		return g.one("10.0.0.0/8", "fd00::/64", "10.1.2.3/24")
	case "#Name":
		if bad {
			return g.one("A", "a_b", "-a", "", strings.Repeat("b", 64), "a\nb", "ä")
		}
		return g.one("a", "b-1", "0", strings.Repeat("b", 63))
	case "#Interface":
		return g.one("eth0", "eth0.100", "enp3s0f1")
	case "#Duration":
		return g.one("3h", "1h30m", "500ms", "1.5s")
	case "#Rate":
		return g.one("100M", "1.5G", "64K", "1000")
	case "#Path":
		return g.one("/proc/1/ns/net", "/")
	case "#PortRange":
		return "30000-32767"
	case "#CPUs":
		return "0-3,6"
	}
	if len(r.matches) > 0 {
		if r.matches[0].MatchString("0-3,6") && !r.matches[0].MatchString("bbr") {
			return "0-3,6"
		}
		return g.one("bbr", "cubic")
	}
	return g.one("", "x", "web \"1\"", "ä", "line\nbreak", "tab\t")
}

// field writes a field and what ends it, in one of the manners in which people write.
func (g *generator) field(b *strings.Builder, name, value string) {
	if g.IntN(8) == 0 && name[0] >= 'a' && !strings.HasSuffix(name, "?") {
		name = strconv.Quote(name)
	}
	colon := g.one(":", ": ", ": ", ": ", ":\t")
	if g.rarely(80) {
		colon = g.one(" :", "::", ":\n", "", " ", "?:", "=", ": // c\n")
	}
	b.WriteString(name + colon + value + g.separator("\n", "\n", "\n", ", ", ",\n", " // c\n", " // \"}\n\n\t", "\r\n"))
}

// separator is one of the given, or now and then one that is mostly wrong.
func (g *generator) separator(all ...string) string {
	if g.rarely(80) {
		return g.one("", " ", ",,", "\n,", ";", "\n:", " // c", "\t", "\n\n,\n", "@", ".x", "\n.x", "/", "&", "\u2028", "\v", "}", "]")
	}
	return g.one(all...)
}

func (g *generator) shuffledFields(r *rule) []string {
	names := slices.Sorted(maps.Keys(r.fields))
	g.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return names
}
