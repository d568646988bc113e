package compiler

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"plumb.internal/plumb/reconciler/features"
)

// explicitly is the reason of what the files require.
const explicitly = "the files ask for it"

// settingOf is the row of a subject.
func settingOf(subject string) *setting {
	return &settings[slices.IndexFunc(settings, func(t setting) bool { return t.subject == subject })]
}

// option is the option of a value; nil for a value that none names.
func (t *setting) option(value string) *option {
	i := slices.IndexFunc(t.options, func(o option) bool { return o.value == value })
	if i < 0 {
		return nil
	}
	return &t.options[i]
}

// obstacle says why an option can't be had; "" if it can.
func (o *option) obstacle(s *situation) string {
	if why := needs(s.set, o.needs, o.either); why != "" || o.unfit == nil {
		return why
	}
	return o.unfit(s)
}

// needs says which of the features is lacking, all of them or one of either; "" for none.
func needs(set *features.Set, all, either []features.Feature) string {
	for _, f := range all {
		if !set.Supports(f) {
			return lacks(set, f)
		}
	}
	if len(either) == 0 || slices.ContainsFunc(either, set.Supports) {
		return ""
	}
	return lacks(set, either[len(either)-1])
}

// auto goes down the options. Where none can be had the value is "", and the reason says why not, option by option.
func (t *setting) auto(s *situation) (value, reason string) {
	var not []string
	for i := range t.options {
		o := &t.options[i]
		if o.never {
			continue
		}
		if why := o.obstacle(s); why != "" {
			not = append(not, "not "+o.value+": "+why)
			continue
		}
		value, reason = o.value, o.why
		if o.beside != "" {
			if why := t.option(o.beside).obstacle(s); why != "" {
				not = append(not, "not "+o.beside+": "+why)
			} else {
				value, reason = value+"+"+o.beside, sentences(reason, o.besides)
			}
		}
		return value, sentences(append([]string{reason}, append(not, o.limit(s))...)...)
	}
	return "", sentences(not...)
}

// refuse says why a value can't be had, and what can; "" where it can be had.
func (t *setting) refuse(value string, s *situation) string {
	o := t.option(value)
	switch {
	case o == nil && t.others == nil:
		return "there is no such value" // the schema says so first
	case o == nil && t.others.unfit == nil:
		return ""
	case o == nil:
		return t.others.unfit(s, value)
	}
	why := o.obstacle(s)
	if why == "" {
		return ""
	}
	var can []string
	for i := range t.options {
		if t.options[i].obstacle(s) == "" {
			can = append(can, t.options[i].value)
		}
	}
	switch {
	case len(can) > 0:
		return sentences(why, "this machine can do "+strings.Join(can, ", "))
	default:
		return sentences(why, t.neither)
	}
}

// limit says what a value does less well here, or "".
func (t *setting) limit(value string, s *situation) string {
	if o := t.option(value); o != nil {
		return o.limit(s)
	}
	if t.others != nil && t.others.limits != nil {
		return t.others.limits(s)
	}
	return ""
}

func (o *option) limit(s *situation) string {
	if o.limits == nil {
		return ""
	}
	return o.limits(s)
}

// choose settles one of the node's own settings: the answer to auto, or what the files require if that can be had. It is
// "" where nothing can be had, which is an error at the path then.
func (b *builder) choose(subject, wanted, path string, s *situation) string {
	t := settingOf(subject)
	if !asks(wanted) {
		value, reason := t.auto(s)
		if value == "" {
			b.add(path, "", "%s on node %s: %s", cmp.Or(t.nothing, subject+" can't be settled"), b.node.name, reason)
			return ""
		}
		if strings.HasSuffix(path, subject) { // else it is that of a node or a service, which asks for much more
			b.askedBy[subject] = path
		}
		b.choice(subject, "auto", value, reason)
		return value
	}
	if why := t.refuse(wanted, s); why != "" {
		b.refused(t, wanted, path, why)
		return ""
	}
	b.askedBy[subject] = path
	b.choice(subject, wanted, wanted, sentences(explicitly, t.limit(wanted, s)))
	return wanted
}

// refused notes that a required value can't be had.
func (b *builder) refused(t *setting, wanted, path, why string) {
	format := t.refused
	if format == "" {
		format = t.subject[strings.LastIndexByte(t.subject, '.')+1:] + " can't be %q"
	}
	b.add(path, "", "%s: %s", fmt.Sprintf(format, wanted), why)
}

// situation is that of the node.
func (b *builder) situation() *situation {
	return &situation{set: b.set, node: b.node, services: b.services, way: b.datapath.way, masquerade: b.datapath.masquerade,
		straight: b.datapath.redirect, fair: b.limited.fq}
}

// asks reports whether a word is a requirement.
func asks(word string) bool { return word != "" && word != "auto" }

// sentences joins the parts of a reason that there are.
func sentences(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(p string) bool { return p == "" }), "; ")
}

// lacks says that a kernel has no f, and why it is thought so.
func lacks(set *features.Set, f features.Feature) string {
	name, text := strings.TrimPrefix(string(f), "link."), set.Why(f)
	if since := set.Features[f].Since; since != "" {
		text += "; upstream has it since " + since
	}
	if st := set.Features[f]; st.Supported == nil {
		return fmt.Sprintf("it isn't known whether this kernel has %s (%s)", name, text)
	}
	if set.Kernel == "" {
		return fmt.Sprintf("this kernel has no %s (%s)", name, text)
	}
	return fmt.Sprintf("kernel %s has no %s (%s)", set.Kernel, name, text)
}
