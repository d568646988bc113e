package service

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Observe implements reconciler.Ops. All services in the maps are ours. Entries that are no service's are resources of
// their own, but for those of a wanted service: they are its beginning.
func (Ops) Observe(_ context.Context, h *host.Host, wanted []Service) (owned, foreign []Service, err error) {
	m, err := open(h, named(wanted))
	if err != nil {
		return nil, nil, err
	}
	if m.none() {
		m.tables().unknown()
		return nil, nil, nil
	}
	all, err := m.dump(wanted)
	if err != nil {
		return nil, nil, err
	}
	ids := m.ids()
	if owned, err = m.services(all, ids, wanted); err != nil {
		return nil, nil, err
	}
	adopt(owned, wanted)
	if len(wanted) == 0 {
		if err := m.markBusy(owned); err != nil {
			return nil, nil, err
		}
	}
	if len(all.junk.frontends)+len(all.junk.slots) > 0 {
		owned = append(owned, Service{Leftover: "entries that nothing reads", Maps: ids, junk: &all.junk})
	}
	stale, err := m.stale(all)
	if err != nil {
		return nil, nil, err
	}
	if len(stale) > 0 {
		owned = append(owned, Service{Leftover: "UDP flows to removed backends", Maps: ids, stale: stale})
	}
	return owned, nil, nil
}

// named are the maps that the wanted services are to be in; not every service names all.
func named(wanted []Service) (names []resource.ID) {
	var last []resource.ID
	for i := range wanted {
		ids := wanted[i].Maps
		if len(ids) == 0 || len(ids) == len(last) && &ids[0] == &last[0] {
			continue // most services share one list
		}
		for _, id := range ids {
			if !slices.Contains(names, id) {
				names = append(names, id)
			}
		}
		last = ids
	}
	return names
}

// dumped are the entries of all services.
type dumped struct {
	services []entries
	index    map[uint64]int32 // by id
	junk     junk
}

// of is the place of a service; one that has no frontend gets one.
func (d *dumped) of(service uint64) int32 {
	i, ok := d.index[service]
	if !ok {
		i = int32(len(d.services))
		d.index[service] = i
		d.services = append(d.services, entries{service: service, key: bpf.FrontendKey{}})
	}
	return i
}

// dump reads the maps at the same time, then sorts the entries out by service.
func (m *maps) dump(wanted []Service) (*dumped, error) {
	backends := 0 // about as many will be there
	for i := range wanted {
		backends += len(wanted[i].Backends)
	}
	var (
		g         errgroup.Group
		frontends = make([]entries, 0, len(wanted))
		slots     = bag[slot]{make([]uint64, 0, backends), make([]slot, 0, backends)}
		members   bag[member]
		odd       junk
	)
	g.Go(func() error {
		err := each(m.frontends, func(k bpf.FrontendKey, v bpf.Frontend) {
			if k.Pad != 0 {
				odd.frontends = append(odd.frontends, k)
				return
			}
			id := hashID(k.Addr, k.Port, k.Proto)
			frontends = append(frontends, entries{service: id, key: k, there: true, frontend: v})
		})
		return wrap(err, "frontends")
	})
	g.Go(func() error {
		err := each(m.slots, func(k bpf.SlotKey, v bpf.Backend) {
			if k.Pad != 0 {
				odd.slots = append(odd.slots, k)
				return
			}
			slots.add(k.Service, slot{k.Slot, v})
		})
		return wrap(err, "slots")
	})
	g.Go(func() error {
		err := each(m.members, func(k bpf.MemberKey, v uint32) {
			members.add(k.Service, member{k.Backend, v})
		})
		return wrap(err, "members")
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	d := &dumped{services: frontends, index: make(map[uint64]int32, len(frontends)), junk: odd}
	for i := range frontends {
		d.index[frontends[i].service] = int32(i)
	}
	sorted, ends := slots.sort(d, compareSlots)
	for i := range ends[1:] {
		d.services[i].slots = sorted[ends[i]:ends[i+1]:ends[i+1]]
	}
	if len(members.items) > 0 {
		sorted, ends := members.sort(d, compareMembers)
		for i := range ends[1:] {
			d.services[i].members = sorted[ends[i]:ends[i+1]:ends[i+1]]
		}
	}
	return d, nil
}

func wrap(err error, m string) error {
	if err != nil {
		return fmt.Errorf("read map %s: %w", m, err)
	}
	return nil
}

// bag holds entries of one map with the service of each.
type bag[T any] struct {
	services []uint64
	items    []T
}

func (b *bag[T]) add(service uint64, item T) {
	b.services = append(b.services, service)
	b.items = append(b.items, item)
}

// sort puts the items of each service together, in their order: those of the i-th are between ends i and i+1.
func (b *bag[T]) sort(d *dumped, compare func(a, b T) int) (sorted []T, ends []int32) {
	owner := make([]int32, len(b.services))
	for i, s := range b.services {
		owner[i] = d.of(s)
	}
	ends = make([]int32, len(d.services)+1)
	for _, o := range owner {
		ends[o+1]++
	}
	for i := range d.services {
		ends[i+1] += ends[i]
	}
	sorted = make([]T, len(b.items))
	next := slices.Clone(ends)
	for i, o := range owner {
		sorted[next[o]] = b.items[i]
		next[o]++
	}
	for i := range d.services {
		if part := sorted[ends[i]:ends[i+1]]; len(part) > 1 {
			slices.SortFunc(part, compare)
		}
	}
	return sorted, ends
}

// services decodes all that was dumped, on every processor, and learns which elements hold tables.
func (m *maps) services(d *dumped, ids []resource.ID, wanted []Service) ([]Service, error) {
	m.tables().learn(d.services, wanted)
	owned := make([]Service, len(d.services))
	room := m.room()
	var g errgroup.Group
	part := max(256, (len(owned)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	for start := 0; start < len(owned); start += part {
		end := min(start+part, len(owned))
		g.Go(func() error {
			n := 0
			for i := start; i < end; i++ {
				n += len(d.services[i].slots)
			}
			backends := make([]resource.Backend, 0, n)
			var element []byte
			for i := start; i < end; i++ {
				e := &d.services[i]
				if e.owns {
					var err error
					if element, err = m.readTable(e, element); err != nil {
						return err
					}
				}
				s := &owned[i]
				s.Maps, s.held = ids, e
				if !e.there {
					s.Leftover, s.Broken = fmt.Sprintf("%016x without a frontend", e.service), "no frontend"
					continue
				}
				s.Frontend, s.Broken = e.decode(backends)
				if e.table && e.frontend.Table >= room[e.frontend.Class] {
					e.table, s.Broken = false, "Maglev table is behind the end of a smaller map" // which takes over
				}
				backends = backends[:len(backends)+len(s.Backends)]
			}
			return nil
		})
	}
	return owned, g.Wait()
}

// readTable looks at the table that a frontend refers to.
func (m *maps) readTable(e *entries, element []byte) ([]byte, error) {
	class := e.frontend.Class
	arrays, err := m.arrays(class)
	if err != nil || len(arrays) == 0 || e.frontend.Table >= last(arrays).MaxEntries() {
		return element, err
	}
	if n := elementSize(class); cap(element) < n {
		element = make([]byte, n)
	} else {
		element = element[:n]
	}
	if err := last(arrays).Lookup(e.frontend.Table, element); err != nil {
		return element, fmt.Errorf("read Maglev table %d of class %d: %w", e.frontend.Table, class, err)
	}
	e.table = e.checkTable(element)
	return element, nil
}

// room is how many Maglev tables of each class the wanted maps have a place for.
func (m *maps) room() (most [len(bpf.MaglevClasses)]uint32) {
	for class := range most {
		most[class] = math.MaxUint32
		for _, id := range m.names {
			if base, _, entries, ok := bpf.ParseMapName(id.Name); ok && base == arrayName(uint8(class)) {
				most[class] = uint32(entries)
			}
		}
	}
	return most
}

// adopt gives what has no frontend to the wanted service that it is the beginning or the end of.
func adopt(owned, wanted []Service) {
	byID := map[uint64]*Service{}
	for i, s := range owned {
		if s.Leftover != "" {
			byID[s.held.service] = &owned[i]
		}
	}
	if len(byID) == 0 {
		return
	}
	for _, w := range wanted {
		if s := byID[HashID(w.Address, w.Port, w.Protocol)]; s != nil {
			s.Leftover = ""
			s.Address, s.Port, s.Protocol = w.Address, w.Port, w.Protocol
		}
	}
}

// stale finds what the data path remembers of UDP backends that are gone: whoever removed them was killed before it had
// made the data path forget.
func (m *maps) stale(d *dumped) ([]pair, error) {
	found := map[pair]bool{}
	known := func(p pair) bool {
		i, ok := d.index[p.service]
		return ok && d.services[i].there && slices.ContainsFunc(d.services[i].slots, func(s slot) bool { return s.backend.ID == p.backend })
	}
	err := m.remembered(func(p pair, _ uint64) bool {
		if _, seen := found[p]; !seen {
			found[p] = !known(p)
		}
		return false
	})
	var stale []pair
	for p, gone := range found {
		if gone {
			stale = append(stale, p)
		}
	}
	slices.SortFunc(stale, func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.backend, b.backend))
	})
	return stale, err
}
