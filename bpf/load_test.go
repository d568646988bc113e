package bpf

import (
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The table of layouts agrees with what the objects say.
func TestLayouts(t *testing.T) {
	for name := range compiled {
		spec, err := Spec(name)
		if err != nil {
			t.Fatal(err)
		}
		for base, m := range spec.Maps {
			l, ok := Layouts[base]
			switch {
			case base[0] == '.': // constants
			case !ok:
				t.Errorf("%s: map %s has no layout", name, base)
			case m.Type != l.Type || m.KeySize != l.Key || m.ValueSize != l.Value || m.Flags != l.Flags:
				t.Errorf("%s: map %s is %v, key %d, value %d, flags %d; its layout is %+v", name, base, m.Type, m.KeySize,
					m.ValueSize, m.Flags, l)
			}
		}
		for base := range Layouts {
			if spec.Maps[base] == nil {
				t.Errorf("%s: no map %s", name, base)
			}
		}
	}
}

// What the outline of an object says is what the instructions refer to.
func TestUses(t *testing.T) {
	for name := range compiled {
		spec, err := Spec(name)
		if err != nil {
			t.Fatal(err)
		}
		if want := slices.Sorted(maps.Keys(spec.Programs)); !slices.Equal(Programs(name), want) {
			t.Errorf("%s has programs %q, found %q", name, want, Programs(name))
		}
		for program, p := range spec.Programs {
			var want []string
			for ref := range p.Instructions.ReferenceOffsets() {
				if _, ok := Layouts[ref]; ok {
					want = append(want, ref)
				}
			}
			slices.Sort(want)
			if uses := Uses(name, program); !slices.Equal(uses, want) {
				t.Errorf("%s: %s uses %q, found %q", name, program, want, uses)
			}
		}
	}
}

func TestMapName(t *testing.T) {
	for _, c := range []struct {
		name, base       string
		version, entries int
		ok               bool
	}{
		{"frontends.v1.65536", "frontends", 1, 65536, true},
		{"maglev_4093s.v12.1", "maglev_4093s", 12, 1, true},
		{"frontends.v1", "", 0, 0, false},
		{"frontends.1.65536", "", 0, 0, false},
		{"frontends.v1.065536", "", 0, 0, false},
		{"frontends.v1.6.5", "", 0, 0, false},
		{"pending", "", 0, 0, false},
	} {
		base, version, entries, ok := ParseMapName(c.name)
		if ok != c.ok || ok && (base != c.base || version != c.version || entries != c.entries) {
			t.Errorf("%s: %q %d %d %v", c.name, base, version, entries, ok)
		}
	}
}

// Whatever a program is made of shows in its hash, the order of a list doesn't.
func TestHash(t *testing.T) {
	set := func(redirect uint32) map[string]uint32 {
		return map[string]uint32{"redirect": redirect, "source_check": 1}
	}
	of := func(object, program string, settings map[string]uint32, m ...string) string {
		return Hash(object, program, settings, m)
	}
	all := []string{
		of("packet", "from_pod", set(1), "a.v1.1", "b.v1.1"), of("forward", "from_pod", set(1), "a.v1.1", "b.v1.1"),
		of("packet", "to_pod", set(1), "a.v1.1", "b.v1.1"), of("packet", "from_pod", set(0), "a.v1.1", "b.v1.1"),
		of("packet", "from_pod", set(1), "a.v1.2", "b.v1.1"), of("packet", "from_pod", nil, "a.v1.1", "b.v1.1"),
	}
	slices.Sort(all)
	if distinct := slices.Compact(slices.Clone(all)); len(distinct) != len(all) {
		t.Errorf("two are the same: %q", all)
	}
	if d := cmp.Diff(of("packet", "x", set(1), "a", "b"), of("packet", "x", set(1), "b", "a")); d != "" {
		t.Error(d)
	}
}

func BenchmarkOutline(b *testing.B) {
	for b.Loop() {
		if _, err := outline(_SocketBytes); err != nil {
			b.Fatal(err)
		}
	}
}
