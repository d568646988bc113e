package service

import (
	"fmt"
	"slices"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// maps are the open maps of a host that hold services. Where there are several of a name, the one to observe is the last.
type maps struct {
	h                         *host.Host
	frontends, slots, members []host.BPFMap
	names                     []resource.ID // of the maps that hold the wanted services
	label                     any           // of the service that is written, for whoever counts

	slotKey   bpf.SlotKey
	memberKey bpf.MemberKey
}

func open(h *host.Host, names []resource.ID) (*maps, error) {
	m := &maps{h: h, names: names}
	var err error
	if m.frontends, err = m.find("frontends"); err == nil {
		if m.slots, err = m.find("slots"); err == nil {
			m.members, err = m.find("members")
		}
	}
	return m, err
}

// none reports whether there are no maps at all. Killed while it made or removed them, plumb leaves some of them.
func (m *maps) none() bool { return len(m.frontends) == 0 && len(m.slots) == 0 && len(m.members) == 0 }

// ids are the resources that the open maps are.
func (m *maps) ids() (ids []resource.ID) {
	for _, ms := range [][]host.BPFMap{m.frontends, m.slots, m.members} {
		for _, b := range ms {
			ids = append(ids, resource.ID{Kind: "bpfmap", Name: b.Name})
		}
	}
	return ids
}

// find opens the maps of a name that have the present layout.
func (m *maps) find(base string) ([]host.BPFMap, error) {
	all, err := m.h.BPFMaps(base)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	known := func(b host.BPFMap) bool {
		_, version, _, ok := bpf.ParseMapName(b.Name)
		return ok && bpf.Fits(base, version, b.Map)
	}
	if len(all) == 1 && known(all[0]) {
		return all, nil
	}
	all = slices.DeleteFunc(slices.Clone(all), func(b host.BPFMap) bool { return !known(b) })
	if i := slices.IndexFunc(all, func(b host.BPFMap) bool {
		return slices.ContainsFunc(m.names, func(id resource.ID) bool { return id.Name == b.Name })
	}); i >= 0 {
		named := all[i]
		all = append(slices.Delete(all, i, i+1), named)
	}
	return all, nil
}

func last(ms []host.BPFMap) host.BPFMap { return ms[len(ms)-1] }

// each visits the entries of the map to observe, if there is one.
func each[K, V any](ms []host.BPFMap, visit func(K, V)) error {
	if len(ms) == 0 {
		return nil
	}
	return bpf.Each(last(ms).Map, visit)
}

// lookup is a look into the map to observe; there is nothing where there is no map.
func lookup(ms []host.BPFMap, key, value unsafe.Pointer) error {
	if len(ms) == 0 {
		return ebpf.ErrKeyNotExist
	}
	return last(ms).Lookup(key, value)
}

// arrays opens the maps of a class of Maglev tables.
func (m *maps) arrays(class uint8) ([]host.BPFMap, error) {
	if int(class) >= len(bpf.MaglevClasses) {
		return nil, nil
	}
	return m.find(arrayName(class))
}

// tables tells which elements of the arrays of Maglev tables are in use. Every Observe learns it anew; what is taken
// and given back in between is marked here, so that services changed at the same time don't get the same.
type tables struct {
	mu     sync.Mutex
	free   sync.Cond // something was given back, or whoever took something is done
	taken  int       // by who isn't done
	known  bool
	used   [len(bpf.MaglevClasses)]map[uint32]bool
	lowest [len(bpf.MaglevClasses)]uint32 // none below is free

	doomed [len(bpf.MaglevClasses)][]uint32 // elements of services that are about to go
	robbed map[place]bool                   // taken from such a service; false when it was given back since
}

// place is an element of an array.
type place struct {
	class   uint8
	element uint32
}

type tablesKey struct{}

// tables returns those of the host.
func (m *maps) tables() *tables {
	return m.h.Kept(tablesKey{}, func() any {
		t := new(tables)
		t.free.L = &t.mu
		return t
	}).(*tables)
}

// learn notes the elements that entries with tables refer to. An element that two refer to is the first one's. Those of
// services that don't stay may be taken before they go.
func (t *tables) learn(all []*entries, stays func(service uint64) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget()
	for _, e := range all {
		c, element := e.frontend.Class, e.frontend.Table
		if int(c) >= len(t.used) {
			continue
		}
		if e.owns = !t.used[c][element]; e.owns && !stays(e.service) {
			t.doomed[c] = append(t.doomed[c], element)
		}
		t.used[c][element] = true
	}
}

// keepAll lets nothing be taken from services that were about to go: they may have stayed.
func (t *tables) keepAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.doomed {
		t.doomed[i] = nil
	}
}

// unknown makes whoever takes one look first.
func (t *tables) unknown() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.forget()
	t.known = false
}

func (t *tables) forget() {
	t.known = true
	t.taken = 0 // whoever took one and never was done is dead: nothing is written while it is observed
	t.robbed = map[place]bool{}
	for i := range t.used {
		t.doomed[i] = nil
		t.used[i] = map[uint32]bool{}
		t.lowest[i] = 0
	}
}

// rob takes an element from a service that nobody wants any more: deletes come last in an apply. Until then its clients
// find backends of its own by somebody else's table.
func (t *tables) rob(class uint8, limit uint32) (element uint32, ok bool) {
	for i, element := range t.doomed[class] {
		if _, gone := t.robbed[place{class, element}]; element < limit && !gone {
			t.doomed[class] = t.doomed[class][i+1:]
			t.robbed[place{class, element}] = true
			return element, true
		}
	}
	return 0, false
}

// take reserves a free element of a class, until done.
func (m *maps) take(class uint8) (uint32, error) {
	t := m.tables()
	arrays, err := m.arrays(class)
	if err != nil {
		return 0, err
	}
	if len(arrays) == 0 {
		return 0, fmt.Errorf("there is no BPF map %s in %s", arrayName(class), m.h.BPFPath(host.BPFMapFolder))
	}
	limit := last(arrays).MaxEntries()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.known {
		t.forget()
		err := each(m.frontends, func(_ bpf.FrontendKey, f bpf.Frontend) {
			if f.Algorithm == bpf.Maglev && f.Slots > 0 && int(f.Class) < len(t.used) {
				t.used[f.Class][f.Table] = true
			}
		})
		if err != nil {
			t.known = false
			return 0, wrap(err, "frontends")
		}
	}
	for {
		for i := t.lowest[class]; i < limit; i++ {
			if !t.used[class][i] {
				t.used[class][i] = true
				t.lowest[class] = i + 1
				t.taken++
				return i, nil
			}
		}
		if t.taken == 0 {
			if element, ok := t.rob(class, limit); ok {
				t.taken++
				return element, nil
			}
			return 0, fmt.Errorf("all %d Maglev tables of %s are in use", limit, arrayName(class))
		}
		t.free.Wait() // an update gives one back for one that it takes
	}
}

// done says that a frontend refers to the element that was taken, or that it was given back.
func (m *maps) done() {
	t := m.tables()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken = max(0, t.taken-1)
	t.free.Broadcast()
}

// give returns an element that no frontend refers to any more.
func (m *maps) give(class uint8, element uint32) {
	t := m.tables()
	if int(class) >= len(t.used) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.known {
		return
	}
	at := place{class, element}
	robbed := t.robbed[at]
	t.robbed[at] = false
	if !robbed { // else somebody has it already
		delete(t.used[class], element)
		t.lowest[class] = min(t.lowest[class], element)
	}
}
