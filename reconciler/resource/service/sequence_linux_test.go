package service

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
)

// content is what is in the maps, but for what isn't a function of the configuration: which element holds a table, and
// where round-robin stands.
type content struct {
	Frontends map[bpf.FrontendKey]bpf.Frontend
	Slots     map[bpf.SlotKey]bpf.Backend
	Members   map[bpf.MemberKey]uint32
	Tables    map[bpf.FrontendKey]string
}

func contentOf(t rapid.TB, h *host.Host) content {
	t.Helper()
	c := content{map[bpf.FrontendKey]bpf.Frontend{}, map[bpf.SlotKey]bpf.Backend{}, map[bpf.MemberKey]uint32{}, map[bpf.FrontendKey]string{}}
	m, err := open(h, nil)
	if err != nil {
		t.Fatal(err)
	}
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	holders := map[string]bpf.FrontendKey{}
	must(bpf.Each(m.frontends[0].Map, func(k bpf.FrontendKey, v bpf.Frontend) {
		if v.Algorithm == bpf.Maglev && v.Slots > 0 {
			element := make([]byte, elementSize(v.Class))
			arrays, err := m.arrays(v.Class)
			must(err)
			must(arrays[0].Lookup(v.Table, element))
			c.Tables[k] = string(element)
			where := fmt.Sprint(v.Class, v.Table)
			if other, ok := holders[where]; ok {
				t.Errorf("%v and %v have the same table", k, other)
			}
			holders[where] = k
		}
		v.Table, v.Next = 0, 0
		c.Frontends[k] = v
	}))
	must(bpf.Each(m.slots[0].Map, func(k bpf.SlotKey, v bpf.Backend) { c.Slots[k] = v }))
	must(bpf.Each(m.members[0].Map, func(k bpf.MemberKey, v uint32) { c.Members[k] = v }))
	return c
}

// drain empties the maps.
func drain(t rapid.TB, h *host.Host) {
	t.Helper()
	c := contentOf(t, h)
	m, err := open(h, nil)
	for k := range c.Frontends {
		err = errors.Join(err, m.frontends[0].Delete(k))
	}
	for k := range c.Slots {
		err = errors.Join(err, m.slots[0].Delete(k))
	}
	for k := range c.Members {
		err = errors.Join(err, m.members[0].Delete(k))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// apply is an apply of one kind: deletes and creates in an order that chance gives.
func apply(h *host.Host, desired []Service, order func([]func() error)) error {
	ctx := context.Background()
	h.Forget()
	owned, _, err := Ops{}.Observe(ctx, h, desired)
	if err != nil {
		return err
	}
	want := map[resource.ID]Service{}
	for _, d := range desired {
		want[d.ID()] = d
	}
	var steps []func() error
	for _, o := range owned {
		d, ok := want[o.ID()]
		if !ok {
			steps = append(steps, func() error { return Ops{}.Delete(ctx, h, o) })
			continue
		}
		delete(want, o.ID())
		if fields, _ := (Ops{}).Diff(o, d); len(fields) > 0 {
			steps = append(steps, func() error { return Ops{}.Update(ctx, h, o, d) })
		}
	}
	for _, d := range desired {
		if _, ok := want[d.ID()]; ok {
			steps = append(steps, func() error { return Ops{}.Create(ctx, h, d) })
		}
	}
	order(steps)
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return Ops{}.Finish(ctx, h)
}

func asTheyCome([]func() error) {}

// killed is what a test stops plumb with.
type killed struct{}

// applyUntil kills plumb before its n-th write.
func applyUntil(h *host.Host, desired []Service, order func([]func() error), n int) (err error) {
	defer func() {
		if p := recover(); p != nil {
			if _, ok := p.(killed); !ok {
				panic(p)
			}
		}
	}()
	h.OnWrite = func(i int, _ string) {
		if i == n {
			panic(killed{})
		}
	}
	return apply(h, desired, order)
}

var frontends = []string{"10.96.0.1:80/TCP", "10.96.0.1:53/UDP", "10.96.0.2:80/TCP", "[fd00:96::1]:80/TCP", "[fd00:96::1]:53/UDP"}

// backendsOf draws backends, in their order.
func backendsOf(t *rapid.T, v6 bool, weights []int) []resource.Backend {
	format := "10.0.0.%d:%d"
	if v6 {
		format = "[fd00::%d]:%d"
	}
	var bs []resource.Backend
	for i := range 4 {
		for port := 8080; port < 8082; port++ {
			if !rapid.Bool().Draw(t, "there") {
				continue
			}
			bs = append(bs, backend(fmt.Sprintf(format, i+1, port), rapid.SampledFrom(weights).Draw(t, "weight"),
				rapid.SampledFrom([]string{resource.Active, resource.Active, resource.Active, resource.Terminating, resource.Maintenance, resource.Down}).Draw(t, "state")))
		}
	}
	return bs
}

func draw(t *rapid.T, name string, weights []int) Service {
	at, protocol, _ := strings.Cut(name, "/")
	algorithm := rapid.SampledFrom([]string{resource.Random, resource.RoundRobin, resource.Maglev}).Draw(t, "algorithm")
	s := frontend(at, protocol, algorithm, backendsOf(t, at[0] == '[', weights)...)
	s.Affinity = rapid.SampledFrom([]time.Duration{0, time.Minute, 3 * time.Hour}).Draw(t, "affinity")
	if algorithm == resource.Maglev {
		s.TableSize = rapid.SampledFrom([]int{251, 509, 2039, 4093}).Draw(t, "table")
	}
	return s
}

var anyWeight = []int{0, 1, 1, 2, 5, 100}

func desiredOf(t *rapid.T) (all []Service) {
	for _, name := range frontends {
		if rapid.Bool().Draw(t, name) {
			all = append(all, draw(t, name, anyWeight))
		}
	}
	return all
}

// Whatever sequence of changes led there, and wherever plumb was killed on the way, the maps equal those of a first apply.
func TestSequences(t *testing.T) {
	checks(t, "200")
	kindtest.NeedRoot(t)
	o := kindtest.Options(t)
	h, fresh := kindtest.Open(t, o), kindtest.Open(t, o)
	mapsOf(t, h, sizes)
	mapsOf(t, fresh, sizes)
	o = h.Options
	rapid.Check(t, func(t *rapid.T) {
		drain(t, h)
		for range rapid.IntRange(1, 5).Draw(t, "applies") {
			desired := desiredOf(t)
			shuffle := func(steps []func() error) {
				for i := len(steps) - 1; i > 0; i-- {
					j := rapid.IntRange(0, i).Draw(t, "order")
					steps[i], steps[j] = steps[j], steps[i]
				}
			}
			for _, n := range rapid.SliceOfN(rapid.IntRange(1, 40), 0, 2).Draw(t, "kills") {
				k, err := host.Open(o)
				if err != nil {
					t.Fatal(err)
				}
				err = applyUntil(k, desired, shuffle, n)
				k.Close()
				if err != nil {
					t.Fatal(err)
				}
			}
			k, err := host.Open(o)
			if err != nil {
				t.Fatal(err)
			}
			defer k.Close()
			if err := apply(k, desired, shuffle); err != nil {
				t.Fatal(err)
			}
			drain(t, fresh)
			if err := apply(fresh, desired, asTheyCome); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(contentOf(t, fresh), contentOf(t, k)); d != "" {
				t.Fatalf("the maps differ from those of a first apply (-first +now):\n%s", d)
			}
			n := k.Writes()
			if err := apply(k, desired, asTheyCome); err != nil {
				t.Fatal(err)
			}
			if k.Writes() != n {
				t.Fatal("a second apply writes")
			}
		}
	})
}

// checks sets how many sequences rapid tries. The seed that it prints is all that a failure leaves.
func checks(t *testing.T, n string) {
	if testing.Short() {
		n = "10"
	}
	for name, value := range map[string]string{"rapid.checks": n, "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
}

// Between any two writes of an update every slot that clients may be given is there and holds a backend that was or will
// be active, and a backend that stays keeps the clients that have affinity to it. Weights are left out of the latter.
func TestEveryMoment(t *testing.T) {
	checks(t, "200")
	h := kindtest.Root(t)
	mapsOf(t, h, sizes)
	rapid.Check(t, func(t *rapid.T) {
		drain(t, h)
		h.Forget()
		name := rapid.SampledFrom(frontends).Draw(t, "frontend")
		from, to := draw(t, name, []int{1}), draw(t, name, []int{1})
		h.OnWrite = nil
		if err := apply(h, []Service{from}, asTheyCome); err != nil {
			t.Fatal(err)
		}
		may, stay := map[uint64]bool{}, map[uint64]bool{}
		for i, bs := range [][]resource.Backend{from.Backends, to.Backends} {
			for _, b := range bs {
				if id := HashID(b.Address, b.Port, from.Protocol); picked(&b) {
					stay[id] = i == 1 && may[id]
					may[id] = true
				}
			}
		}
		h.OnWrite = func(n int, what string) {
			c := contentOf(t, h)
			for _, f := range c.Frontends {
				for i := range f.Slots {
					if b, ok := c.Slots[bpf.SlotKey{Service: f.Service, Slot: i}]; !ok || !may[b.ID] {
						t.Fatalf("before %q slot %d holds %+v", what, i, b)
					}
				}
				for id, stays := range stay {
					at, ok := c.Members[bpf.MemberKey{Service: f.Service, Backend: id}]
					if f.Affinity == 0 || !stays || from.Affinity == 0 || to.Affinity == 0 {
						continue
					}
					if b := c.Slots[bpf.SlotKey{Service: f.Service, Slot: at}]; !ok || b.ID != id {
						t.Fatalf("before %q the clients of a backend that stays find %+v in slot %d", what, b, at)
					}
				}
			}
		}
		if err := apply(h, []Service{to}, asTheyCome); err != nil {
			t.Fatal(err)
		}
	})
	h.OnWrite = nil
}

// An update writes the entries that differ, and no other.
func TestWritesWhatDiffers(t *testing.T) {
	checks(t, "200")
	h := kindtest.Root(t)
	mapsOf(t, h, sizes)
	rapid.Check(t, func(t *rapid.T) {
		drain(t, h)
		h.Forget()
		name := rapid.SampledFrom(frontends).Draw(t, "frontend")
		if err := apply(h, []Service{draw(t, name, anyWeight)}, asTheyCome); err != nil {
			t.Fatal(err)
		}
		before, n := contentOf(t, h), h.Writes()
		if err := apply(h, []Service{draw(t, name, anyWeight)}, asTheyCome); err != nil {
			t.Fatal(err)
		}
		after := contentOf(t, h)
		want := differ(before.Slots, after.Slots) + differ(before.Members, after.Members)
		moved := 0 // tables that are new: each is one write, and one of the frontend that refers to it
		for k, table := range after.Tables {
			if before.Tables[k] != table {
				moved++
			}
		}
		if want += moved; moved > 0 {
			want++
		} else {
			want += differ(before.Frontends, after.Frontends)
		}
		if got := h.Writes() - n; got != want {
			t.Errorf("%d writes, %d entries differ", got, want)
		}
	})
}

func differ[K, V comparable](a, b map[K]V) (n int) {
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			n++
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			n++
		}
	}
	return n
}
