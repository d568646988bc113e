package service

import (
	"cmp"
	"fmt"
	"iter"
	"slices"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/reconciler/resource"
)

// view is what a look at the maps found.
type view struct {
	*expected
	isWhole []bool              // of each wanted service: it is exactly as wanted
	tabled  map[int]*entries    // those of them that have a Maglev table
	others  map[uint64]*entries // all others that have anything in the maps, by id
	alone   []*entries          // frontends whose id is another one's
	junk    junk
	stale   []pair // UDP backends that are gone, and that the data path remembers: whoever removed them was killed
}

// other is a service that isn't as wanted.
func (v *view) other(service uint64) *entries {
	e := v.others[service]
	if e == nil {
		e = &entries{service: service}
		v.others[service] = e
	}
	return e
}

func (v *view) addFrontend(k bpf.FrontendKey, f bpf.Frontend) {
	id := hashID(k.Addr, k.Port, k.Proto)
	e := v.other(id)
	if e.there {
		e = &entries{service: id}
		v.alone = append(v.alone, e)
	}
	e.key, e.there, e.frontend = k, true, f
}

// sort tells what is exactly as wanted from what isn't, and puts the entries of the latter in order.
func (v *view) sort() {
	for i := range v.ids {
		if v.isWhole[i] = v.whole(i); !v.isWhole[i] {
			v.setApart(i)
		}
	}
	for _, e := range v.others {
		slices.SortFunc(e.slots, compareSlots)
		slices.SortFunc(e.members, compareMembers)
	}
}

// setApart makes of what was seen of a wanted service one that isn't as wanted.
func (v *view) setApart(i int) {
	seen, something := v.seen(i)
	if !something {
		return
	}
	e := v.other(seen.service)
	if seen.there && e.there {
		v.alone = append(v.alone, &entries{service: e.service, key: e.key, there: true, frontend: e.frontend})
	}
	if seen.there || !e.there {
		e.key, e.there, e.frontend = seen.key, seen.there, seen.frontend
	}
	e.slots = append(e.slots, seen.slots...)
	e.members = append(e.members, seen.members...)
}

// compare finds what the data path remembers of UDP backends that are gone. One that is wanted isn't: whoever moves slots may
// be killed when it is in none of them.
func (v *view) compare(remembered map[pair]bool) {
	for p := range remembered {
		has := func(slots []slot) bool {
			return slices.ContainsFunc(slots, func(s slot) bool { return s.backend.ID == p.backend })
		}
		i, e := v.at(p.service), v.others[p.service]
		wanted := i >= 0 && has(v.slotsOf(i))
		if held := e != nil && e.there && has(e.slots); !wanted && !held {
			v.stale = append(v.stale, p)
		}
	}
	slices.SortFunc(v.stale, func(a, b pair) int {
		return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.backend, b.backend))
	})
}

// found are all that aren't as wanted.
func (v *view) found() iter.Seq[*entries] {
	return func(yield func(*entries) bool) {
		for _, e := range v.others {
			if !yield(e) {
				return
			}
		}
		for _, e := range v.alone {
			if !yield(e) {
				return
			}
		}
	}
}

// differing lists the wanted services that aren't there as wanted, by their places, and makes resources of what is there
// instead.
func (v *view) differing(wanted []resource.Resource, ids []resource.ID) (others []int, owned []Service) {
	for i, whole := range v.isWhole {
		if !whole {
			others = append(others, i)
		}
	}
	for e := range v.found() {
		var s Service
		if i := v.at(e.service); i >= 0 {
			w := wanted[i].(Service)
			s = e.resource(&w.Frontend, ids)
		} else {
			s = e.resource(nil, ids)
		}
		owned = append(owned, s)
	}
	if len(v.junk.frontends)+len(v.junk.slots) > 0 {
		owned = append(owned, Service{Leftover: "entries that nothing reads", Maps: ids, junk: &v.junk})
	}
	if len(v.stale) > 0 {
		owned = append(owned, Service{Leftover: "UDP flows to removed backends", Maps: ids, stale: v.stale})
	}
	return others, owned
}

// resource makes a resource of entries. They may be the beginning of a wanted service.
func (e *entries) resource(wanted *resource.Frontend, ids []resource.ID) Service {
	s := Service{Maps: ids, held: e}
	switch {
	case e.there:
		s.Frontend, s.Broken = e.decode()
		if e.cutOff {
			e.table, s.Broken = false, "Maglev table is behind the end of a smaller map" // which takes over
		}
	case wanted != nil:
		s.Frontend, s.Broken = resource.Frontend{Address: wanted.Address, Port: wanted.Port, Protocol: wanted.Protocol}, "no frontend"
	default:
		s.Leftover, s.Broken = fmt.Sprintf("%016x without a frontend", e.service), "no frontend"
	}
	return s
}
