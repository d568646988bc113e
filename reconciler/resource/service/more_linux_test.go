package service

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
)

// What somebody else changes in the maps is seen, and mended.
func TestTampered(t *testing.T) {
	s := frontend("10.96.0.1:80", "TCP", resource.Maglev, backend("10.0.0.1:80", 1, resource.Active), backend("10.0.0.2:80", 2, resource.Active)).sticky(60e9)
	other := frontend("10.96.0.2:80", "TCP", resource.Maglev, s.Backends...)
	h := kindtest.Root(t)
	mapsOf(t, h, sizes)
	both := []Service{s, other}
	if err := apply(h, both, asTheyCome); err != nil {
		t.Fatal(err)
	}
	want := contentOf(t, h)
	m, err := open(h, nil)
	if err != nil {
		t.Fatal(err)
	}
	id := HashID(s.Address, s.Port, s.Protocol)
	key := encode(s.Frontend).key
	edit := func(change func(f *bpf.Frontend)) error {
		var f bpf.Frontend
		err := m.frontends[0].Lookup(&key, &f)
		change(&f)
		return errors.Join(err, m.frontends[0].Put(&key, &f))
	}
	for name, tamper := range map[string]func() error{
		"a slot of the table": func() error {
			var f bpf.Frontend
			element := make([]byte, elementSize(0))
			err := errors.Join(m.frontends[0].Lookup(&key, &f), one(t, h, "maglev_2039s").Lookup(f.Table, element))
			element[1000]++
			return errors.Join(err, one(t, h, "maglev_2039s").Put(f.Table, element))
		},
		"the other's table": func() error {
			var f bpf.Frontend
			o := encode(other.Frontend).key
			err := m.frontends[0].Lookup(&o, &f)
			return errors.Join(err, edit(func(mine *bpf.Frontend) { mine.Table = f.Table }))
		},
		"no such table": func() error { return edit(func(f *bpf.Frontend) { f.Table = 1000 }) },
		"no such class": func() error { return edit(func(f *bpf.Frontend) { f.Class = 77 }) },
		"another id":    func() error { return edit(func(f *bpf.Frontend) { f.Service++ }) },
		"the other's id": func() error {
			return edit(func(f *bpf.Frontend) { f.Service = HashID(other.Address, other.Port, other.Protocol) })
		},
		"algorithm":   func() error { return edit(func(f *bpf.Frontend) { f.Algorithm = 9 }) },
		"size":        func() error { return edit(func(f *bpf.Frontend) { f.Size = 3000 }) },
		"fewer slots": func() error { return edit(func(f *bpf.Frontend) { f.Slots-- }) },
		"state": func() error {
			b := encode(s.Frontend).slots[0].backend
			b.State = 44
			return m.slots[0].Put(&bpf.SlotKey{Service: id}, &b)
		},
		"slot gone":   func() error { return m.slots[0].Delete(&bpf.SlotKey{Service: id}) },
		"slot more":   func() error { return m.slots[0].Put(&bpf.SlotKey{Service: id, Slot: 7}, &bpf.Backend{}) },
		"member gone": func() error { return m.members[0].Delete(&bpf.MemberKey{Service: id, Backend: want1(want)}) },
		"member more": func() error { return m.members[0].Put(&bpf.MemberKey{Service: id, Backend: 1}, uint32(9)) },
		"leftovers": func() error {
			return errors.Join(m.slots[0].Put(&bpf.SlotKey{Service: 1, Slot: 7}, &bpf.Backend{}),
				m.members[0].Put(&bpf.MemberKey{Service: 2, Backend: 1}, uint32(9)))
		},
		"no frontend": func() error { return m.frontends[0].Delete(&key) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := tamper(); err != nil {
				t.Fatal(err)
			}
			n := h.Writes()
			if err := apply(h, both, asTheyCome); err != nil {
				t.Fatal(err)
			}
			if h.Writes() == n {
				t.Error("nothing was mended")
			}
			if d := cmp.Diff(want, contentOf(t, h)); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// want1 is the backend of a member.
func want1(c content) uint64 {
	for k := range c.Members {
		return k.Backend
	}
	return 0
}

// While a map of another size takes over, both are written, and the one that the configuration names is observed.
func TestTwoMaps(t *testing.T) {
	a, b := backend("10.0.0.1:80", 1, resource.Active), backend("10.0.0.2:80", 1, resource.Active)
	s := frontend("10.96.0.1:80", "TCP", resource.Maglev, a, b).sticky(60e9)
	h := kindtest.Root(t)
	mapsOf(t, h, sizes)
	for base, n := range sizes {
		pin(t, h, base, 2*n)
	}
	for _, entries := range []int{1, 2} {
		s.Maps = nil
		for _, base := range []string{"frontends", "slots", "members", "maglev_2039s"} {
			s.Maps = append(s.Maps, resource.ID{Kind: "bpfmap", Name: bpf.MapName(base, 1, entries*sizes[base])})
		}
		s.Backends = []resource.Backend{a, b}[:entries]
		// Killed at any moment the named map isn't ahead of the other.
		for n := 1; ; n++ {
			k, err := host.Open(h.Options)
			if err != nil {
				t.Fatal(err)
			}
			err = applyUntil(k, []Service{s}, asTheyCome, n)
			done := k.Writes() < n
			k.Close()
			if err != nil {
				t.Fatal(err)
			}
			if done {
				break
			}
		}
		m, err := open(h, s.Maps)
		if err != nil {
			t.Fatal(err)
		}
		all, err := m.look(nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, which := range []*[]host.BPFMap{&m.frontends, &m.slots, &m.members} {
			if len(*which) != 2 || last(*which).MaxEntries() == (*which)[0].MaxEntries() {
				t.Fatalf("maps %v", *which)
			}
			*which = []host.BPFMap{(*which)[1], (*which)[0]}
		}
		if got := last(m.slots).Name; got == bpf.MapName("slots", 1, entries*sizes["slots"]) {
			t.Fatalf("the other map is %s", got)
		}
		others, err := m.look(nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(all.others, others.others, cmp.AllowUnexported(entriesOf()...)); d != "" {
			t.Errorf("the maps differ:\n%s", d)
		}
		if err := apply(h, nil, asTheyCome); err != nil {
			t.Fatal(err)
		}
	}
}

func entriesOf() []any { return []any{entries{}, slot{}, member{}} }

// Killed while it made or removed the maps, or robbed of one, plumb goes on with what is there.
func TestSomeMaps(t *testing.T) {
	a, b := backend("10.0.0.1:80", 1, resource.Active), backend("10.0.0.2:80", 1, resource.Active)
	s := frontend("10.96.0.1:80", "TCP", resource.Random, a, b).sticky(60e9)
	for base := range sizes {
		t.Run(base, func(t *testing.T) {
			h := kindtest.Root(t)
			mapsOf(t, h, map[string]int{base: sizes[base]})
			if owned, _, err := (Ops{}).Observe(t.Context(), h, []Service{s}); err != nil || len(owned) > 0 {
				t.Errorf("alone: owned %v, %v", owned, err)
			}
			h = kindtest.Root(t)
			mapsOf(t, h, sizes)
			if err := apply(h, []Service{s}, asTheyCome); err != nil {
				t.Fatal(err)
			}
			want := contentOf(t, h)
			if err := os.Remove(h.BPFPath(host.BPFMapFolder, bpf.MapName(base, 1, sizes[base]))); err != nil {
				t.Fatal(err)
			}
			h.Forget()
			owned, _, err := (Ops{}).Observe(t.Context(), h, nil)
			if err != nil {
				t.Fatal(err)
			}
			pin(t, h, base, sizes[base])
			h.ForgetMaps()
			if err := apply(h, []Service{s}, asTheyCome); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, contentOf(t, h)); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
			for _, o := range owned {
				if err := (Ops{}).Delete(t.Context(), h, o); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// A map that is too small is an error that says what to set, and what had room works.
func TestFull(t *testing.T) {
	a, b := backend("10.0.0.1:80", 1, resource.Active), backend("10.0.0.2:80", 1, resource.Active)
	all := []Service{
		frontend("10.96.0.1:80", "TCP", resource.Maglev, a, b), frontend("10.96.0.2:80", "TCP", resource.Maglev, a, b),
		frontend("10.96.0.3:80", "TCP", resource.Maglev, a, b),
	}
	for name, c := range map[string]struct {
		sizes map[string]int
		want  string
	}{
		"frontends": {map[string]int{"frontends": 2, "slots": 64, "members": 1, "maglev_2039s": 8}, "map frontends.v1.2 is full: set a larger tuning.maps.services"},
		"slots":     {map[string]int{"frontends": 64, "slots": 4, "members": 1, "maglev_2039s": 8}, "map slots.v1.4 is full: set a larger tuning.maps.services"},
		"tables":    {map[string]int{"frontends": 64, "slots": 64, "members": 1, "maglev_2039s": 2}, "all 2 Maglev tables of maglev_2039s are in use"},
		"no tables": {map[string]int{"frontends": 64, "slots": 64, "members": 1}, "there is no BPF map maglev_2039s"},
		"no maps":   {map[string]int{}, "there is no BPF map frontends"},
	} {
		t.Run(name, func(t *testing.T) {
			h := kindtest.Root(t)
			mapsOf(t, h, c.sizes)
			err := apply(h, all, asTheyCome)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
			if err := apply(h, all[:2], asTheyCome); err != nil && len(c.sizes) == 4 {
				t.Error(err)
			}
			if err := apply(h, nil, asTheyCome); err != nil {
				t.Error(err)
			}
			h.Forget()
			if owned, _, err := (Ops{}).Observe(t.Context(), h, nil); err != nil || len(owned) > 0 {
				t.Errorf("left over %v, %v", owned, err)
			}
		})
	}
}

// An apply that broke off in the middle of a write leaves no table that the next one, on the same host, waits for.
func TestBrokenOff(t *testing.T) {
	a, b := backend("10.0.0.1:80", 1, resource.Active), backend("10.0.0.2:80", 1, resource.Active)
	first, second := frontend("10.96.0.1:80", "TCP", resource.Maglev, a, b), frontend("10.96.0.2:80", "TCP", resource.Maglev, a, b)
	h := kindtest.Root(t)
	mapsOf(t, h, map[string]int{"frontends": 64, "slots": 64, "members": 1, "maglev_2039s": 1})
	next := func(what string, desired ...Service) error {
		end := make(chan error, 1)
		go func() { end <- apply(h, desired, asTheyCome) }()
		select {
		case err := <-end:
			return err
		case <-time.After(20 * time.Second):
			t.Fatalf("killed before %q, the next apply waits for ever", what)
			return nil
		}
	}
	for n := 1; ; n++ {
		start, killedAt := h.Writes(), ""
		h.OnWrite = func(i int, what string) {
			if i == start+n {
				killedAt = what
				panic(killed{})
			}
		}
		func() {
			defer func() {
				if p := recover(); p != nil && p != (killed{}) {
					panic(p)
				}
			}()
			if err := apply(h, []Service{first}, asTheyCome); err != nil {
				t.Fatal(err)
			}
		}()
		h.OnWrite = nil
		if killedAt == "" {
			return
		}
		if err := next(killedAt, first, second); err == nil || !strings.Contains(err.Error(), "all 1 Maglev tables") {
			t.Errorf("killed before %q: %v", killedAt, err)
		}
		if err := next(killedAt); err != nil {
			t.Fatal(err)
		}
	}
}

// Services made at the same time have tables of their own, also where one is spare: others wait for it.
func TestParallel(t *testing.T) {
	h := kindtest.Root(t)
	mapsOf(t, h, map[string]int{"frontends": 1024, "slots": 4096, "members": 1, "maglev_4093s": 601})
	all := fill(600, resource.Maglev)
	parallel(t, all, func(s Service) error { return Ops{}.Create(context.Background(), h, s) })
	if c := contentOf(t, h); len(c.Tables) != 600 {
		t.Errorf("%d tables", len(c.Tables))
	}
	h.Forget()
	owned, _, err := Ops{}.Observe(t.Context(), h, all)
	if err != nil {
		t.Fatal(err)
	}
	parallel(t, owned, func(s Service) error {
		to := s
		to.Backends = to.Backends[:2]
		return Ops{}.Update(context.Background(), h, s, to)
	})
	h.Forget()
	if owned, _, err = (Ops{}).Observe(t.Context(), h, all); err != nil {
		t.Fatal(err)
	}
	for _, o := range owned {
		if o.Broken != "" || len(o.Backends) != 2 {
			t.Fatalf("%s: %s, %d backends", o.ID(), o.Broken, len(o.Backends))
		}
	}
	contentOf(t, h) // looks for tables of two
}
