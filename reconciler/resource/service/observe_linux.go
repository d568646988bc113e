package service

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Observe implements reconciler.Ops. All services in the maps are ours. Entries that are no service's are resources of
// their own, but for those of a wanted service: they are its beginning.
func (Ops) Observe(ctx context.Context, h *host.Host, wanted []Service) (owned, foreign []Service, err error) {
	all := make([]resource.Resource, len(wanted))
	for i := range wanted {
		all[i] = wanted[i]
	}
	m, err := Ops{}.Match(ctx, h, all)
	if err != nil {
		return nil, nil, err
	}
	for i := range wanted {
		if _, other := slices.BinarySearch(m.Others, i); !other {
			m.Owned = append(m.Owned, m.As(wanted[i]))
		}
	}
	return m.Owned, nil, nil
}

// Match implements reconciler.Matcher.
func (Ops) Match(_ context.Context, h *host.Host, wanted []resource.Resource) (matched resource.Matched[Service], err error) {
	names, backends := named(wanted)
	m, err := open(h, names)
	if err != nil {
		return matched, err
	}
	if m.none() {
		m.tables().unknown()
		for i := range wanted {
			matched.Others = append(matched.Others, i)
		}
		return matched, nil
	}
	v, err := m.look(wanted, backends)
	if err == nil {
		err = m.checkTables(v)
	}
	if err != nil {
		return matched, err
	}
	ids := m.ids()
	matched.Others, matched.Owned = v.differing(wanted, ids)
	matched.As = func(w Service) Service {
		i := v.at(ID(w.Frontend))
		e := v.tabled[i]
		if e == nil {
			e = v.entries(i)
		}
		return Service{Frontend: w.Frontend, Maps: ids, held: e}
	}
	if len(wanted) == 0 {
		err = m.markBusy(matched.Owned)
	}
	return matched, err
}

// named are the maps that the wanted services are to be in; not every service names all. It counts their backends, too.
func named(wanted []resource.Resource) (names []resource.ID, backends int) {
	var last []resource.ID
	for _, r := range wanted {
		s := r.(Service)
		backends += len(s.Backends)
		ids := s.Maps
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
	return names, backends
}

// batches are for reading slots.
var batches = sync.Pool{New: func() any { return bpf.NewBatch[bpf.SlotKey, bpf.Backend](0) }}

// look reads the maps and compares what is there with what is wanted. The kernel takes most of the time, and most of it
// for the slots: they are read meanwhile.
func (m *maps) look(wanted []resource.Resource, backends int) (*view, error) {
	type slotBatch = bpf.Batch[bpf.SlotKey, bpf.Backend]
	var (
		g          errgroup.Group
		slots      = make(chan *slotBatch, 32)
		remembered = map[pair]bool{}
	)
	g.Go(func() error {
		defer close(slots)
		if len(m.slots) == 0 {
			return nil
		}
		fresh := func() *slotBatch { return batches.Get().(*slotBatch) }
		return wrap(bpf.Batches(last(m.slots).Map, fresh, func(b *slotBatch) { slots <- b }), "slots")
	})
	g.Go(func() error {
		return m.remembered(func(p pair, _ uint64) bool {
			remembered[p] = true
			return false
		})
	})
	v := &view{expected: expect(wanted, backends), isWhole: make([]bool, len(wanted)), tabled: map[int]*entries{}, others: map[uint64]*entries{}}
	errFrontends := each(m.frontends, func(k bpf.FrontendKey, f bpf.Frontend) {
		switch {
		case k.Pad != 0:
			v.junk.frontends = append(v.junk.frontends, k)
		case !v.sawFrontend(&k, &f):
			v.addFrontend(k, f)
		}
	})
	errMembers := each(m.members, func(k bpf.MemberKey, slot uint32) {
		if !v.sawMember(&k, slot) {
			e := v.other(k.Service)
			e.members = append(e.members, member{k.Backend, slot})
		}
	})
	for b := range slots {
		for i := range b.N {
			switch k := &b.Keys[i]; {
			case k.Pad != 0:
				v.junk.slots = append(v.junk.slots, *k)
			case !v.sawSlot(k, &b.Values[i]):
				e := v.other(k.Service)
				e.slots = append(e.slots, slot{k.Slot, b.Values[i]})
			}
		}
		batches.Put(b)
	}
	if err := cmp.Or(g.Wait(), wrap(errFrontends, "frontends"), wrap(errMembers, "members")); err != nil {
		return nil, err
	}
	v.sort()
	v.compare(remembered)
	return v, nil
}

func wrap(err error, m string) error {
	if err != nil {
		return fmt.Errorf("read map %s: %w", m, err)
	}
	return nil
}

// checkTables learns which elements hold Maglev tables, and looks at them on every processor.
func (m *maps) checkTables(v *view) error {
	var all []*entries
	for i, f := range v.frontends {
		if v.isWhole[i] && f.Algorithm == bpf.Maglev && f.Slots > 0 {
			e := v.entries(i)
			v.tabled[i], all = e, append(all, e)
		}
	}
	whole := len(all)
	for e := range v.found() {
		if e.hasTable() {
			all = append(all, e)
		}
	}
	m.tables().learn(all, func(service uint64) bool { return v.at(service) >= 0 })
	room := m.room()
	var g errgroup.Group
	part := max(256, (len(all)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	for part := range slices.Chunk(all, part) {
		g.Go(func() (err error) {
			var element []byte
			for _, e := range part {
				if e.owns {
					if element, err = m.readTable(e, element); err != nil {
						return err
					}
				}
				e.cutOff = e.table && e.frontend.Table >= room[e.frontend.Class]
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, e := range all[:whole] {
		if !e.table || e.cutOff {
			v.isWhole[v.at(e.service)] = false
			v.others[e.service] = e
		}
	}
	return nil
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
