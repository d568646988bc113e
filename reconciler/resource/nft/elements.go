package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"plumb.internal/plumb/reconciler/resource"
)

// element is the value of one element of a set: a chain's name for verdicts, else the data as the kernel has it.
type element struct{ value, comment string }

// sets are all elements of the table, by set and key.
type sets map[string]map[string]element

// The sets of the table; those of one family end in its number.
const (
	servicesSet = "services"
	slotsSet    = "slots"
	hairpinSet  = "hairpin" // each backend's address, twice
	segmentsSet = "segments"
)

// refuse is the chain of frontends without a backend for new flows.
const refuse = "refuse"

// chain names how a frontend picks: "ip6_round-robin_3".
type chain struct {
	family byte // '4' or '6'
	way    string
	slots  int
}

// source is the way of frontends with affinity.
const source = "source"

func (c chain) name() string {
	family := "ip"
	if c.family == '6' {
		family = "ip6"
	}
	return fmt.Sprintf("%s_%s_%d", family, c.way, c.slots)
}

// family is the number of an address's family, as names of sets end with.
func family(a netip.Addr) byte {
	if a.Is4() {
		return '4'
	}
	return '6'
}

// encode returns all elements of a table, and the chains that they go to.
func encode(t Table) (sets, map[string]chain) {
	s := sets{hairpinSet + "4": {}, hairpinSet + "6": {}, segmentsSet: {}}
	for _, v := range []string{"4", "6"} {
		s[servicesSet+v] = make(map[string]element, len(t.Frontends))
		s[slotsSet+v] = make(map[string]element, 4*len(t.Frontends))
	}
	chains := map[string]chain{}
	for _, f := range t.Frontends {
		s.addFrontend(f)
		if c, ok := chainOf(f); ok {
			chains[c.name()] = c
		}
	}
	s.addAround(t)
	return s, chains
}

// chainOf returns the chain by which a frontend picks; there is none where nobody gets anything new.
func chainOf(f resource.Frontend) (c chain, ok bool) {
	c = chain{family(f.Address), f.Algorithm, len(resource.Slots(f.Backends))}
	if f.Affinity > 0 {
		c.way = source
	}
	return c, c.slots > 0
}

// addFrontend adds the elements of one frontend.
func (s sets) addFrontend(f resource.Frontend) {
	v := string(family(f.Address))
	key := frontendKey(f)
	goes := refuse
	if c, ok := chainOf(f); ok {
		goes = c.name()
	}
	s[servicesSet+v][key] = element{goes, frontendComment(f)}
	slots := s[slotsSet+v]
	commented := make([]bool, len(f.Backends)) // by its first slot
	at := 0
	place := func(i int) {
		b := f.Backends[i]
		e := element{value: backendValue(b)}
		if !commented[i] {
			e.comment, commented[i] = backendComment(b), true
		}
		slots[slotKey(key, at)] = e
		at++
	}
	for _, i := range resource.Slots(f.Backends) {
		place(i)
	}
	for i := range f.Backends {
		if !commented[i] { // not picked
			place(i)
		}
	}
}

// addAround adds what isn't one frontend's.
func (s sets) addAround(t Table) {
	seen := map[netip.Addr]bool{}
	for _, f := range t.Frontends {
		for _, b := range f.Backends {
			if !seen[b.Address] {
				seen[b.Address] = true
				s[hairpinSet+string(family(b.Address))][hairpinKey(b.Address)] = element{}
			}
		}
	}
	for _, dev := range t.Segments {
		name := make([]byte, 2*ifNameSize)
		copy(name, dev)
		copy(name[ifNameSize:], dev)
		s[segmentsSet][string(name)] = element{}
	}
}

const ifNameSize = 16

func hairpinKey(a netip.Addr) string {
	b := a.AsSlice()
	return string(append(b, b...))
}

func frontendKey(f resource.Frontend) string {
	b := append(f.Address.AsSlice(), protocolNumber(f.Protocol), 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, f.Port)
	return string(append(b, 0, 0))
}

func slotKey(frontend string, slot int) string {
	return string(binary.NativeEndian.AppendUint32([]byte(frontend), uint32(slot)))
}

func backendValue(b resource.Backend) string {
	v := binary.BigEndian.AppendUint16(b.Address.AsSlice(), b.Port)
	return string(append(v, 0, 0))
}

const tcp, udp = 6, 17

func protocolNumber(name string) byte {
	if name == "UDP" {
		return udp
	}
	return tcp
}

// frontendComment is what the elements of a frontend don't show: "random", "round-robin, affinity 3h0m0s".
func frontendComment(f resource.Frontend) string {
	if f.Affinity > 0 {
		return f.Algorithm + ", affinity " + f.Affinity.String()
	}
	return f.Algorithm
}

// backendComment is what slots don't show: "weight 2", "terminating", "maintenance weight 0".
func backendComment(b resource.Backend) string {
	var s []string
	if b.State != resource.Active {
		s = append(s, b.State)
	}
	if b.Weight != 1 {
		s = append(s, "weight "+strconv.Itoa(b.Weight))
	}
	return strings.Join(s, " ")
}

var errForeign = errors.New("an element that plumb doesn't make")

// decode returns the table that has these elements, as far as they make sense. encode tells whether they all did.
func decode(s sets) (t Table, err error) {
	for _, v := range []string{"4", "6"} {
		size := 4
		if v == "6" {
			size = 16
		}
		slots, err := slotsByFrontend(s[slotsSet+v], size)
		if err != nil {
			return t, err
		}
		for key, e := range s[servicesSet+v] {
			f, err := decodeFrontend(key, e, size)
			if err != nil {
				return t, err
			}
			if f.Backends, err = decodeBackends(slots[key], size); err != nil {
				return t, err
			}
			t.Frontends = append(t.Frontends, f)
		}
	}
	sortFrontends(t.Frontends)
	for key := range s[segmentsSet] {
		name, _, _ := strings.Cut(key, "\x00")
		t.Segments = append(t.Segments, name)
	}
	slices.Sort(t.Segments)
	return t, nil
}

func sortFrontends(fs []resource.Frontend) {
	type named struct {
		name string
		f    resource.Frontend
	}
	all := make([]named, len(fs))
	for i, f := range fs {
		all[i] = named{f.Name(), f}
	}
	slices.SortFunc(all, func(a, b named) int { return strings.Compare(a.name, b.name) })
	for i := range all {
		fs[i] = all[i].f
	}
}

// slot is one slot of a frontend.
type slot struct {
	at int
	element
}

func slotsByFrontend(elements map[string]element, size int) (map[string][]slot, error) {
	slots := make(map[string][]slot, len(elements)/2)
	for key, e := range elements {
		if len(key) != size+12 {
			return nil, errForeign
		}
		frontend := key[:size+8]
		slots[frontend] = append(slots[frontend], slot{int(binary.NativeEndian.Uint32([]byte(key[size+8:]))), e})
	}
	return slots, nil
}

func decodeFrontend(key string, e element, size int) (f resource.Frontend, err error) {
	if len(key) != size+8 {
		return f, errForeign
	}
	f.Address, _ = netip.AddrFromSlice([]byte(key[:size]))
	f.Port = binary.BigEndian.Uint16([]byte(key[size+4:]))
	switch key[size] {
	case tcp:
		f.Protocol = "TCP"
	case udp:
		f.Protocol = "UDP"
	default:
		return f, errForeign
	}
	algorithm, affinity, sticky := strings.Cut(e.comment, ", affinity ")
	f.Algorithm = algorithm
	if sticky {
		if f.Affinity, err = time.ParseDuration(affinity); err != nil {
			return f, errForeign
		}
	}
	return f, nil
}

func decodeBackends(slots []slot, size int) ([]resource.Backend, error) {
	slices.SortFunc(slots, func(a, b slot) int { return a.at - b.at })
	seen := make(map[string]resource.Backend, len(slots))
	for _, s := range slots {
		if _, ok := seen[s.value]; ok {
			continue
		}
		if len(s.value) != size+4 {
			return nil, errForeign
		}
		b := resource.Backend{State: resource.Active, Weight: 1}
		b.Address, _ = netip.AddrFromSlice([]byte(s.value[:size]))
		b.Port = binary.BigEndian.Uint16([]byte(s.value[size:]))
		words := strings.Fields(s.comment)
		if len(words)%2 == 1 {
			b.State, words = words[0], words[1:]
		}
		if len(words) == 2 {
			var err error
			if b.Weight, err = strconv.Atoi(words[1]); err != nil {
				return nil, errForeign
			}
		}
		seen[s.value] = b
	}
	return sortBackends(slices.Collect(maps.Values(seen))), nil
}

func sortBackends(backends []resource.Backend) []resource.Backend {
	slices.SortFunc(backends, resource.Backend.Compare)
	return backends
}
