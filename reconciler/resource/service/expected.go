package service

import (
	"math/bits"
	"slices"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/reconciler/resource"
)

// expected are the entries of all wanted services, and which of them were seen in the maps. Tens of thousands are
// compared at every look, and most of what that takes is waiting for memory: so it is some arrays of numbers, and not an
// object for each service.
type expected struct {
	ids       []uint64
	keys      []bpf.FrontendKey
	frontends []bpf.Frontend
	there     []bool // the frontend of a service was seen as it should be; what is left open is as it was seen
	odd       []bool // something of a service was seen that shouldn't be

	slots     []slot // of all services, one after the other
	slotSeen  []bool
	firstSlot []uint32 // of each service, and behind the last one

	members     []member
	memberSeen  []bool
	firstMember []uint32

	index []int32 // a hash table of the ids: places, from 1; 0 where there is none
	shift int
}

// expect works out the entries of services; backends is about how many they have.
func expect(wanted []resource.Resource, backends int) *expected {
	n := len(wanted)
	x := &expected{
		ids: make([]uint64, n), keys: make([]bpf.FrontendKey, n), frontends: make([]bpf.Frontend, n), there: make([]bool, n), odd: make([]bool, n),
		slots: make([]slot, 0, backends), firstSlot: make([]uint32, n+1), firstMember: make([]uint32, n+1),
	}
	width := bits.Len(uint(n + n/2))
	x.index, x.shift = make([]int32, 1<<width), 64-width
	for i, r := range wanted {
		s := r.(Service)
		x.keys[i], x.frontends[i] = encodeFrontend(&s.Frontend)
		f := &x.frontends[i]
		f.Slots, x.slots = appendSlots(x.slots, &s.Frontend, x.keys[i].Proto)
		if s.Affinity > 0 {
			x.members = append(x.members, membersOf(x.slots[x.firstSlot[i]:x.firstSlot[i]+f.Slots])...)
		}
		x.firstSlot[i+1], x.firstMember[i+1] = uint32(len(x.slots)), uint32(len(x.members))
		x.ids[i] = f.Service
		if at, ok := x.find(f.Service); !ok {
			x.index[at] = int32(i + 1)
		}
	}
	x.slotSeen, x.memberSeen = make([]bool, len(x.slots)), make([]bool, len(x.members))
	return x
}

const golden uint64 = 0x9e3779b97f4a7c15 // spreads what is alike: Knuth, The Art of Computer Programming, 6.4

// find is where in the index a service is, or would be.
func (x *expected) find(service uint64) (at int, ok bool) {
	for h := service * golden >> x.shift; ; h++ {
		at = int(h) & (len(x.index) - 1)
		if i := x.index[at]; i == 0 || x.ids[i-1] == service {
			return at, i != 0
		}
	}
}

// at is the place of a service; -1 where it isn't wanted.
func (x *expected) at(service uint64) int {
	at, _ := x.find(service)
	return int(x.index[at]) - 1
}

func (x *expected) slotsOf(i int) []slot {
	return x.slots[x.firstSlot[i]:x.firstSlot[i+1]:x.firstSlot[i+1]]
}

func (x *expected) membersOf(i int) []member {
	return x.members[x.firstMember[i]:x.firstMember[i+1]:x.firstMember[i+1]]
}

// sawFrontend notes a frontend, unless it isn't as it should be.
func (x *expected) sawFrontend(k *bpf.FrontendKey, f *bpf.Frontend) bool {
	i := x.at(hashID(k.Addr, k.Port, k.Proto))
	if i < 0 {
		return false
	}
	if x.keys[i] != *k || !sameFrontend(*f, x.frontends[i]) {
		x.odd[i] = true
		return false
	}
	x.there[i], x.frontends[i] = true, *f
	return true
}

// sawSlot is the same for a slot.
func (x *expected) sawSlot(k *bpf.SlotKey, b *bpf.Backend) bool {
	i := x.at(k.Service)
	if i < 0 {
		return false
	}
	at, end := uint64(x.firstSlot[i])+uint64(k.Slot), uint64(x.firstSlot[i+1])
	if at >= end || x.slots[at].backend != *b {
		x.odd[i] = true
		return false
	}
	x.slotSeen[at] = true
	return true
}

// sawMember is the same for a member.
func (x *expected) sawMember(k *bpf.MemberKey, slot uint32) bool {
	i := x.at(k.Service)
	if i < 0 {
		return false
	}
	members := x.membersOf(i)
	j, ok := slices.BinarySearchFunc(members, member{backend: k.Backend}, compareMembers)
	if !ok || members[j].slot != slot {
		x.odd[i] = true
		return false
	}
	x.memberSeen[x.firstMember[i]+uint32(j)] = true
	return true
}

// whole reports whether all of a service was seen, and nothing else.
func (x *expected) whole(i int) bool {
	return x.there[i] && !x.odd[i] && !slices.Contains(x.slotSeen[x.firstSlot[i]:x.firstSlot[i+1]], false) &&
		!slices.Contains(x.memberSeen[x.firstMember[i]:x.firstMember[i+1]], false)
}

// entries are those of a service of which all was seen.
func (x *expected) entries(i int) *entries {
	return &entries{service: x.ids[i], key: x.keys[i], there: true, frontend: x.frontends[i], slots: x.slotsOf(i), members: x.membersOf(i)}
}

// seen are those entries of a service that were seen; something says that there are any, or others of it.
func (x *expected) seen(i int) (e entries, something bool) {
	e.service, e.key = x.ids[i], x.keys[i]
	if x.there[i] {
		e.there, e.frontend = true, x.frontends[i]
	}
	for j, s := range x.slotsOf(i) {
		if x.slotSeen[int(x.firstSlot[i])+j] {
			e.slots = append(e.slots, s)
		}
	}
	for j, m := range x.membersOf(i) {
		if x.memberSeen[int(x.firstMember[i])+j] {
			e.members = append(e.members, m)
		}
	}
	return e, e.there || x.odd[i] || len(e.slots) > 0 || len(e.members) > 0
}
