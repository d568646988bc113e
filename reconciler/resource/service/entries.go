package service

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"time"
	"unsafe"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/reconciler/resource"
)

// word is a name of the configuration and its number in the maps.
type word struct {
	name   string
	number uint8
}

var (
	protocols  = [...]word{{"TCP", bpf.TCP}, {"UDP", bpf.UDP}}
	algorithms = [...]word{{resource.Random, bpf.Random}, {resource.RoundRobin, bpf.RoundRobin}, {resource.Maglev, bpf.Maglev}}
	states     = [...]word{
		{resource.Active, bpf.Active}, {resource.Terminating, bpf.Terminating}, {resource.Maintenance, bpf.Maintenance},
		{resource.Down, bpf.Down},
	}
)

func number(words []word, name string) uint8 {
	for _, w := range words {
		if w.name == name {
			return w.number
		}
	}
	return 0
}

func name(words []word, number uint8) string {
	for _, w := range words {
		if w.number == number {
			return w.name
		}
	}
	return fmt.Sprintf("unknown (%d)", number)
}

// slot is one entry of map "slots".
type slot struct {
	number  uint32
	backend bpf.Backend
}

// member is one entry of map "members".
type member struct {
	backend uint64
	slot    uint32
}

// entries are all that the maps hold for one service.
type entries struct {
	service  uint64 // the id in the keys of slots and members: what the frontend's should be
	key      bpf.FrontendKey
	there    bool // there is a frontend
	frontend bpf.Frontend
	slots    []slot   // ordered by number
	members  []member // ordered by backend
	owns     bool     // MAGLEV: no other frontend has the same table
	table    bool     // MAGLEV: it is what it should be
	cutOff   bool     // MAGLEV: its element is behind the end of the map that takes over
}

// junk are keys whose padding isn't zero: no program asks for them, and without it they look like others.
type junk struct {
	frontends []bpf.FrontendKey
	slots     []bpf.SlotKey
}

// encode is what a frontend is in the maps. Which table it has, and where round-robin stands, is left out.
func encode(f resource.Frontend) *entries {
	e := &entries{there: true, slots: make([]slot, 0, len(f.Backends))}
	e.key, e.frontend = encodeFrontend(&f)
	e.service = e.frontend.Service
	e.frontend.Slots, e.slots = appendSlots(e.slots, &f, e.key.Proto)
	if f.Affinity > 0 {
		e.members = membersOf(e.slots[:e.frontend.Slots])
	}
	return e
}

// encodeFrontend leaves out how many slots it has.
func encodeFrontend(f *resource.Frontend) (bpf.FrontendKey, bpf.Frontend) {
	k := bpf.FrontendKey{Addr: bpf.AddressOf(f.Address), Port: bpf.PortOf(f.Port), Proto: number(protocols[:], f.Protocol)}
	v := bpf.Frontend{
		Service:   hashID(k.Addr, k.Port, k.Proto),
		Affinity:  uint32(f.Affinity / time.Second),
		Algorithm: number(algorithms[:], f.Algorithm),
	}
	if f.Algorithm == resource.Maglev {
		v.Size = uint32(f.TableSize)
		v.Class = uint8(bpf.MaglevClass(f.TableSize))
	}
	return k, v
}

// appendSlots appends the slots of a frontend, of which the first are those that new clients are given.
func appendSlots(slots []slot, f *resource.Frontend, proto uint8) (pickable uint32, all []slot) {
	start := len(slots)
	add := func(b *resource.Backend) {
		v := bpf.Backend{Addr: bpf.AddressOf(b.Address), Port: bpf.PortOf(b.Port), Weight: uint16(min(b.Weight, math.MaxUint16)),
			State: number(states[:], b.State)}
		v.ID = hashID(v.Addr, v.Port, proto)
		slots = append(slots, slot{uint32(len(slots) - start), v})
	}
	if even(f) {
		for i := range f.Backends {
			if picked(&f.Backends[i]) {
				add(&f.Backends[i])
			}
		}
	} else {
		for _, i := range resource.Slots(f.Backends) {
			add(&f.Backends[i])
		}
	}
	pickable = uint32(len(slots) - start)
	for i := range f.Backends {
		if !picked(&f.Backends[i]) {
			add(&f.Backends[i])
		}
	}
	return pickable, slots
}

func picked(b *resource.Backend) bool { return b.State == resource.Active && b.Weight > 0 }

// even reports whether one slot is enough for every backend that new clients are given.
func even(f *resource.Frontend) bool {
	if f.Algorithm == resource.Maglev {
		return true // its table knows the weights
	}
	weight := 0
	for i := range f.Backends {
		if b := &f.Backends[i]; picked(b) {
			if weight > 0 && b.Weight != weight {
				return false
			}
			weight = b.Weight
		}
	}
	return true
}

// Room is how many entries a frontend takes in maps "slots" and "members".
func Room(f resource.Frontend) (slots, members int) {
	n := 0
	for i := range f.Backends {
		if picked(&f.Backends[i]) {
			n++
		}
	}
	if f.Affinity > 0 {
		members = n
	}
	if even(&f) {
		return len(f.Backends), members
	}
	return len(resource.Slots(f.Backends)) + len(f.Backends) - n, members
}

// membersOf tells the first slot of each backend.
func membersOf(slots []slot) []member {
	ms := make([]member, 0, len(slots))
	for _, s := range slots {
		ms = append(ms, member{s.backend.ID, s.number})
	}
	slices.SortFunc(ms, func(a, b member) int {
		return cmp.Or(cmp.Compare(a.backend, b.backend), cmp.Compare(a.slot, b.slot))
	})
	return slices.CompactFunc(ms, func(a, b member) bool { return a.backend == b.backend })
}

// decode is the frontend that entries stand for; broken says in what they differ from what encode makes of it, "" if in
// nothing.
func (e *entries) decode() (f resource.Frontend, broken string) {
	f = resource.Frontend{
		Address: e.key.Addr.Addr(), Port: e.key.Port.Number(), Protocol: name(protocols[:], e.key.Proto),
		Algorithm: name(algorithms[:], e.frontend.Algorithm),
		Affinity:  time.Duration(e.frontend.Affinity) * time.Second,
	}
	if e.frontend.Algorithm == bpf.Maglev {
		f.TableSize = int(e.frontend.Size)
	}
	f.Backends = make([]resource.Backend, 0, len(e.slots))
	for _, s := range e.slots {
		b := s.backend
		f.Backends = append(f.Backends, resource.Backend{Address: b.Addr.Addr(), Port: b.Port.Number(), Weight: int(b.Weight),
			State: name(states[:], b.State)})
	}
	if !slices.IsSortedFunc(f.Backends, resource.Backend.Compare) {
		slices.SortStableFunc(f.Backends, resource.Backend.Compare)
	}
	f.Backends = slices.CompactFunc(f.Backends, func(a, b resource.Backend) bool { return a.At() == b.At() })
	if e.plain() {
		return f, ""
	}
	want := encode(f)
	switch {
	case !e.there:
		broken = "no frontend"
	case !sameFrontend(e.frontend, want.frontend):
		broken = "frontend is wrong"
	case !slices.Equal(e.slots, want.slots):
		broken = "slots are wrong"
	case !slices.Equal(e.members, want.members):
		broken = "members are wrong"
	case want.hasTable() && !e.table:
		broken = "Maglev table is wrong"
	}
	return f, broken
}

// plain reports whether these entries are what encode makes of them, for services of the simplest kind: every backend has
// one slot, and there are no members. For others it says no.
func (e *entries) plain() bool {
	f := e.frontend
	maglev := f.Algorithm == bpf.Maglev
	if !e.there || f.Service != e.service || int(f.Slots) != len(e.slots) || len(e.members) > 0 {
		return false
	}
	if maglev && (!e.table || int(f.Class) != bpf.MaglevClass(int(f.Size))) || !maglev && (f.Size != 0 || f.Class != 0) || f.Affinity != 0 {
		return false
	}
	if f.Algorithm < bpf.Random || f.Algorithm > bpf.Maglev || e.key.Proto != bpf.TCP && e.key.Proto != bpf.UDP {
		return false
	}
	for i := range e.slots {
		b := &e.slots[i].backend
		if e.slots[i].number != uint32(i) || b.State != bpf.Active || b.Weight == 0 ||
			!maglev && b.Weight != e.slots[0].backend.Weight || b.ID != hashID(b.Addr, b.Port, e.key.Proto) {
			return false
		}
		if i > 0 {
			a := &e.slots[i-1].backend
			if cmp.Or(bytes.Compare(a.Addr[:], b.Addr[:]), bytes.Compare(a.Port[:], b.Port[:])) >= 0 {
				return false
			}
		}
	}
	return maglev || len(e.slots) <= resource.MaxSlots
}

// sameFrontend leaves out which table it is, and where round-robin stands.
func sameFrontend(a, b bpf.Frontend) bool {
	a.Table, b.Table = 0, 0
	a.Next, b.Next = 0, 0
	return a == b
}

// hasTable reports whether there is a Maglev table: not for nobody to choose from.
func (e *entries) hasTable() bool {
	return e.there && e.frontend.Algorithm == bpf.Maglev && e.frontend.Slots > 0
}

// inputs is the hash of all that a Maglev table is made from.
func (e *entries) inputs() uint64 {
	h := (fnvStart ^ e.service) * fnvPrime
	h = (h ^ uint64(e.frontend.Size)) * fnvPrime
	for _, s := range e.slots[:min(int(e.frontend.Slots), len(e.slots))] {
		h = mix((h ^ s.backend.ID) * fnvPrime)
		h = (h ^ uint64(s.backend.Weight)) * fnvPrime
	}
	return h
}

// The header of an element of an array of Maglev tables, as in maps.h.
const tableHeader = 16

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// arrayNames are the maps of Maglev tables, by class.
var arrayNames = func() (names [len(bpf.MaglevClasses)]string) {
	for class := range names {
		names[class] = bpf.MaglevMap(class)
	}
	return names
}()

func arrayName(class uint8) string { return arrayNames[class] }

// elementSize is the size of the elements of a class, in bytes.
func elementSize(class uint8) int { return int(bpf.Layouts[arrayName(class)].Value) }

// buildTable puts the table into an element of its class.
func (e *entries) buildTable(element []byte) {
	backends := make([]candidate, e.frontend.Slots)
	for i := range backends {
		b := e.slots[i].backend
		backends[i] = candidate{id: b.ID, weight: int(b.Weight), slot: uint16(i)}
	}
	slots := element[tableHeader:]
	clear(slots[2*e.frontend.Size:])
	fillMaglev(unsafe.Slice((*uint16)(unsafe.Pointer(&slots[0])), e.frontend.Size), backends) // little endian, as all of the data path
	binary.LittleEndian.PutUint64(element, e.inputs())
	binary.LittleEndian.PutUint64(element[8:], tableSum(slots[:2*e.frontend.Size]))
}

// checkTable reports whether an element holds the table of these entries, as its header and its sum tell.
func (e *entries) checkTable(element []byte) bool {
	end := tableHeader + 2*int(e.frontend.Size)
	return end <= len(element) && binary.LittleEndian.Uint64(element) == e.inputs() &&
		binary.LittleEndian.Uint64(element[8:]) == tableSum(element[tableHeader:end])
}

// tableSum tells a table from one that somebody changed by accident: CRC-32C, for which processors have an instruction.
func tableSum(slots []byte) uint64 { return uint64(crc32.Checksum(slots, castagnoli)) }

func compareSlots(a, b slot) int { return cmp.Compare(a.number, b.number) }

func compareMembers(a, b member) int { return cmp.Compare(a.backend, b.backend) }
