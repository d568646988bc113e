package compiler

import (
	"fmt"
	"io"
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/schema"
)

//go:generate go run ../internal/docs ../docs/choices.md ../testdata/features

const pageHead = `# What plumb chooses, and why

*Made from the table in compiler/choices.go by ` + "`make generate`" + `; change that one.*

Every field here is ` + "`\"auto\"`" + ` if it is left out: plumb takes the first value of its list that the kernel can do and that nothing
rules out. What a kernel can do is found by trying (` + "`plumb features`" + `), never by its version. Any other value is a requirement: where
it can't be had, ` + "`plumb validate`" + ` fails at its place, with the reason and with what this machine can do instead. ` + "`plumb plan`" + ` and
` + "`plumb status`" + ` show each choice with its reason. A field that nothing on a node uses has no line there.
`

// WriteChoices writes the page about everything that is chosen: the table, and what it answers on some machines.
func WriteChoices(w io.Writer, machines []*features.Set) error {
	p := &page{w: w}
	p.print("%s", pageHead)
	for i := range settings {
		p.setting(&settings[i])
	}
	p.profiles()
	p.answers(machines)
	return p.err
}

// page keeps the first error of writing.
type page struct {
	w   io.Writer
	err error
}

func (p *page) print(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

func (p *page) setting(t *setting) {
	p.print("\n## %s\n\n%s\n\n", t.subject, t.doc)
	if len(t.options) > 0 {
		p.print("| value | needs | ruled out where | reason |\n|---|---|---|---|\n")
	}
	for i := range t.options {
		o := &t.options[i]
		value, why := "`"+o.value+"`", sentences(o.why, o.besides)
		if o.never {
			value += " (never by auto)"
		}
		if o.beside != "" {
			why = fmt.Sprintf("%s; with `%s` %s", o.why, o.beside, o.besides)
		}
		p.print("| %s | %s | %s | %s |\n", value, needed(o), o.unless, why)
	}
	if t.others != nil {
		p.print("\nOther values: %s.\n", t.others.what)
	}
}

func (p *page) profiles() {
	p.print("\n## Profiles\n\nThe settings are lower bounds: a machine that has more keeps it. What the kernel has no setting for is left out, with a\n" +
		"warning that names it. `plumb destroy` gives back what was there before.\n\n| profile | setting | value | why |\n|---|---|---|---|\n")
	for _, f := range profiles {
		for _, s := range f.settings {
			p.print("| `%s` | %s | %s | %s |\n", f.name, s.key, s.value, s.why)
		}
	}
}

// needed lists the features of an option.
func needed(o *option) string {
	list := func(all []features.Feature, sep string) string {
		var names []string
		for _, f := range all {
			names = append(names, "`"+string(f)+"`")
		}
		return strings.Join(names, sep)
	}
	text := list(o.needs, ", ")
	if len(o.either) == 0 {
		return text
	}
	return strings.TrimPrefix(text+" and ", " and ") + list(o.either, " or ")
}

// answers says what auto becomes on some machines, on a node with a pod and a service.
func (p *page) answers(machines []*features.Set) {
	cfg := &schema.Config{
		Nodes: map[string]schema.Node{"NODE": {Uplinks: []string{"eth0"}, PodCIDRs: []string{"10.0.0.0/24"}}},
		Pods:  map[string]schema.Pod{"NAME": {}},
		Services: map[string]schema.Service{"SERVICE": {
			Addresses: []string{"10.96.0.1"}, Ports: map[string]schema.Port{"http": {Port: 80}}, Backends: []schema.Backend{{Pod: "NAME"}},
		}},
	}
	p.print("\n## What auto becomes\n\nOn a node with one pod and one service, on the machines whose features are recorded in testdata/features.\n")
	for _, set := range machines {
		c, err := Compile(cfg, "NODE", set)
		if err != nil {
			p.err = fmt.Errorf("compile for kernel %s: %w", set.Kernel, err)
			return
		}
		p.print("\n### Kernel %s, %s\n\n| field | chosen | reason |\n|---|---|---|\n", set.Kernel, set.Arch)
		for _, ch := range c.Choices {
			p.print("| %s | `%s` | %s |\n", ch.Subject, ch.Chosen, ch.Reason)
		}
	}
}

// Listed is a setting of the table, with the values that have a name of their own.
type Listed struct {
	Subject string
	Values  []string
}

// Settings lists the table, for those who try all of it.
func Settings() []Listed {
	var all []Listed
	for _, t := range settings {
		l := Listed{Subject: t.subject}
		for _, o := range t.options {
			l.Values = append(l.Values, o.value)
		}
		all = append(all, l)
	}
	return all
}
