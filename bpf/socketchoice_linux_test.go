package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// All of a namespace goes to one backend: until it is gone, or the time has run out.
func affinity(t *testing.T, w *world, f family) {
	w.serve(t, front{at: f.front, proto: TCP, algorithm: RoundRobin, affinity: 3600, slots: f.backends[:]})
	ask := func() netip.AddrPort {
		t.Helper()
		s := open(t, w.pod, f.sockets, TCP)
		defer s.close()
		s.mustConnect(f.front)
		return s.ask(f.front)
	}
	for range 10 {
		if said := ask(); said != f.backends[0] {
			t.Fatalf("%v answers, not %v", said, f.backends[0])
		}
	}
	service := id(TCP, f.front)
	client := AffinityKey{Service: service}
	if w.Maps["namespaces"] != nil && w.name != "old" {
		binary.NativeEndian.PutUint64(client.Client[:], w.cookie)
	}
	var a Affinity
	if err := w.Maps["affinities"].Lookup(client, &a); err != nil || a.Backend != id(TCP, f.backends[0]) || a.Seen == 0 {
		t.Errorf("affinity %+v, %v", a, err)
	}
	if w.name != "old" {
		s := open(t, w.other, f.sockets, TCP)
		s.mustConnect(f.front)
		if said := s.ask(f.front); said != f.backends[1] {
			t.Errorf("another namespace is answered by %v", said)
		}
	} else {
		ask() // the turn that the other one would have taken, were it another client
		w.turn(t, f.front, TCP, 2)
	}
	// Its time has run out.
	w.put(t, "affinities", client, Affinity{Backend: a.Backend, Seen: 1})
	w.setAffinity(t, f.front, TCP, 1)
	if said := ask(); said != f.backends[2] {
		t.Errorf("%v answers when the time has run out", said)
	}
	w.setAffinity(t, f.front, TCP, 3600)
	// Its backend is gone.
	if err := w.Maps["members"].Delete(MemberKey{service, id(TCP, f.backends[2])}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if said := ask(); said != f.backends[0] {
			t.Errorf("%v answers when the backend is gone", said)
		}
	}
}

func (w *world) frontend(t *testing.T, at netip.AddrPort, proto uint8, change func(*Frontend)) {
	t.Helper()
	key := FrontendKey{Addr: AddressOf(at.Addr()), Port: PortOf(at.Port()), Proto: proto}
	var f Frontend
	if err := w.Maps["frontends"].Lookup(key, &f); err != nil {
		t.Fatal(err)
	}
	change(&f)
	w.put(t, "frontends", key, f)
}

func (w *world) setAffinity(t *testing.T, at netip.AddrPort, proto uint8, seconds uint32) {
	t.Helper()
	w.frontend(t, at, proto, func(f *Frontend) { f.Affinity = seconds })
}

func (w *world) turn(t *testing.T, at netip.AddrPort, proto uint8, next uint32) {
	t.Helper()
	w.frontend(t, at, proto, func(f *Frontend) { f.Next = next })
}

// Round-robin gives each slot its turn, weights are slots, and random leaves nobody out.
func algorithms(t *testing.T, w *world, f family) {
	for _, c := range []struct {
		proto, algorithm uint8
		connections      int
		slots            []netip.AddrPort
		want             []int // connections of each backend; nil: some
	}{
		{TCP, RoundRobin, 9, f.backends[:], []int{3, 3, 3}},
		{UDP, RoundRobin, 9, f.backends[:], []int{3, 3, 3}},
		{TCP, RoundRobin, 9, []netip.AddrPort{f.backends[0], f.backends[1], f.backends[0]}, []int{6, 3, 0}},
		{UDP, Random, 60, f.backends[:], nil},
	} {
		w.clear(t)
		w.serve(t, front{at: f.front, proto: c.proto, algorithm: c.algorithm, slots: c.slots})
		got := make([]int, 3)
		var s *sock
		for range c.connections {
			if s == nil || c.proto == TCP {
				s = open(t, w.pod, f.sockets, c.proto)
			}
			s.mustConnect(f.front)
			got[slices.Index(f.backends[:], s.ask(f.front))]++
		}
		if c.want != nil && !slices.Equal(got, c.want) || c.want == nil && slices.Min(got) == 0 {
			t.Errorf("algorithm %d, protocol %d, slots %v: %v", c.algorithm, c.proto, c.slots, got)
		}
	}
}

// The table of the service's class says which backend, by the socket.
func maglev(t *testing.T, w *world, f family) {
	for class, size := range MaglevClasses {
		table := make([]byte, 16+(size*2+7)/8*8)
		slot := func(at int) int { return at * 7 % 3 }
		for i := range size {
			binary.NativeEndian.PutUint16(table[16+2*i:], uint16(slot(i)))
		}
		w.put(t, fmt.Sprintf("maglev_%ds", size), uint32(0), table)
		w.serve(t, front{at: f.front, proto: TCP, algorithm: Maglev, class: uint8(class), slots: f.backends[:]})
		for range 5 {
			s := open(t, w.pod, f.sockets, TCP)
			s.mustConnect(f.front)
			hash := uint32(s.cookie * 0x9e3779b97f4a7c15 >> 32)
			if said, want := s.ask(f.front), f.backends[slot(int(hash%uint32(size)))]; said != want {
				t.Errorf("class %d: %v answers, not %v", class, said, want)
			}
		}
	}
	// A table that isn't there is no reason to refuse.
	w.frontend(t, f.front, TCP, func(f *Frontend) { f.Table = 7 })
	s := open(t, w.pod, f.sockets, TCP)
	s.mustConnect(f.front)
	s.ask(f.front)
}
