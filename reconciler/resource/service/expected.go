package service

import (
	"math/bits"
	"slices"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/reconciler/resource"
)

// expected are the entries of all wanted services, and which of them were seen in the maps. Tens of thousands are
// compared at every look, so it is some large arrays, and not an object for each service.
type expected struct {
	services []entries
	there    []bool // the frontend of a service was seen as it should be; what is left open is noted in its entries
	odd      []bool // something of a service was seen that shouldn't be

	slots     []slot // of all services, one after the other
	slotSeen  []bool
	firstSlot []int32 // of each service, and behind the last one

	memberSeen  []bool
	firstMember []int32

	index []indexed
	shift int
}

// indexed is a service in a hash table of its own kind, which costs a third of a map's time.
type indexed struct {
	id               uint64
	number           int32 // from 1; 0 where there is none
	firstSlot, slots int32
}

// expect works out the entries of services.
func expect(wanted []resource.Resource) *expected {
	n := len(wanted)
	x := &expected{
		services: make([]entries, n), there: make([]bool, n), odd: make([]bool, n),
		slots: make([]slot, 0, 4*n), firstSlot: make([]int32, n+1), firstMember: make([]int32, n+1),
	}
	width := bits.Len(uint(n + n/2))
	x.index, x.shift = make([]indexed, 1<<width), 64-width
	for i, r := range wanted {
		s := r.(Service)
		e := &x.services[i]
		x.slots = e.encode(&s.Frontend, x.slots)
		x.firstSlot[i+1] = int32(len(x.slots))
		x.firstMember[i+1] = x.firstMember[i] + int32(len(e.members))
		if at := x.at(e.service); at.number == 0 {
			*at = indexed{e.service, int32(i + 1), x.firstSlot[i], x.firstSlot[i+1] - x.firstSlot[i]}
		}
	}
	for i := range x.services {
		x.services[i].slots = x.slots[x.firstSlot[i]:x.firstSlot[i+1]:x.firstSlot[i+1]] // they don't move any more
	}
	x.slotSeen, x.memberSeen = make([]bool, len(x.slots)), make([]bool, x.firstMember[n])
	return x
}

const golden uint64 = 0x9e3779b97f4a7c15 // spreads what is alike: Knuth, The Art of Computer Programming, 6.4

// at is the place of a service in the index; its number is 0 where there is none.
func (x *expected) at(service uint64) *indexed {
	for i := service * golden >> x.shift; ; i++ {
		if at := &x.index[i&uint64(len(x.index)-1)]; at.number == 0 || at.id == service {
			return at
		}
	}
}

// sawFrontend notes a frontend, unless it isn't as it should be.
func (x *expected) sawFrontend(k *bpf.FrontendKey, f *bpf.Frontend) bool {
	at := x.at(hashID(k.Addr, k.Port, k.Proto))
	if at.number == 0 {
		return false
	}
	i := at.number - 1
	e := &x.services[i]
	if e.key != *k || !sameFrontend(*f, e.frontend) {
		x.odd[i] = true
		return false
	}
	x.there[i], e.frontend = true, *f
	return true
}

// sawSlot is the same for a slot.
func (x *expected) sawSlot(k *bpf.SlotKey, b *bpf.Backend) bool {
	at := x.at(k.Service)
	if at.number == 0 {
		return false
	}
	if k.Slot >= uint32(at.slots) || x.slots[at.firstSlot+int32(k.Slot)].backend != *b {
		x.odd[at.number-1] = true
		return false
	}
	x.slotSeen[at.firstSlot+int32(k.Slot)] = true
	return true
}

// sawMember is the same for a member.
func (x *expected) sawMember(k *bpf.MemberKey, slot uint32) bool {
	at := x.at(k.Service)
	if at.number == 0 {
		return false
	}
	i := at.number - 1
	j, ok := slices.BinarySearchFunc(x.services[i].members, member{backend: k.Backend}, compareMembers)
	if !ok || x.services[i].members[j].slot != slot {
		x.odd[i] = true
		return false
	}
	x.memberSeen[x.firstMember[i]+int32(j)] = true
	return true
}

// whole reports whether all of a service was seen, and nothing else.
func (x *expected) whole(i int) bool {
	return x.there[i] && !x.odd[i] && !slices.Contains(x.slotSeen[x.firstSlot[i]:x.firstSlot[i+1]], false) &&
		!slices.Contains(x.memberSeen[x.firstMember[i]:x.firstMember[i+1]], false)
}

// seen adds what was seen of a service to e, and reports whether that is anything.
func (x *expected) seen(i int, e *entries) bool {
	want := &x.services[i]
	e.service, e.key = want.service, want.key
	if x.there[i] {
		e.there, e.frontend = true, want.frontend
	}
	for j, seen := range x.slotSeen[x.firstSlot[i]:x.firstSlot[i+1]] {
		if seen {
			e.slots = append(e.slots, want.slots[j])
		}
	}
	for j, seen := range x.memberSeen[x.firstMember[i]:x.firstMember[i+1]] {
		if seen {
			e.members = append(e.members, want.members[j])
		}
	}
	return e.there || x.odd[i] || len(e.slots) > 0 || len(e.members) > 0
}
