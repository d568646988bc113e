package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/cilium/ebpf"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
)

// Look implements reconciler.Looker: it asks for the entries that the service should have or had, and for what stands
// behind them.
func (Ops) Look(_ context.Context, h *host.Host, was, is *Service) (*Service, error) {
	var like []*entries
	var s Service
	for _, l := range []*Service{was, is} {
		if l != nil {
			like, s = append(like, encode(l.Frontend)), *l
		}
	}
	m, err := open(h, s.Maps)
	if err != nil || m.none() {
		return nil, err
	}
	m.tables().keepAll()
	e, err := m.read(like...)
	if err != nil || !e.there && len(e.slots) == 0 && len(e.members) == 0 {
		return nil, err
	}
	if e.owns {
		if _, err := m.readTable(e, nil); err != nil {
			return nil, err
		}
		e.cutOff = e.table && e.frontend.Table >= m.room()[e.frontend.Class]
	}
	found := e.resource(&s.Frontend, m.ids())
	return &found, nil
}

// read looks for the entries of one service that it has in any of these forms, and for those behind them.
func (m *maps) read(like ...*entries) (*entries, error) {
	e := &entries{service: like[0].service, key: like[0].key}
	err := lookup(m.frontends, unsafe.Pointer(&e.key), unsafe.Pointer(&e.frontend))
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil, wrap(err, "frontends")
	}
	if e.there = err == nil; !e.there {
		e.frontend = bpf.Frontend{}
	}
	e.owns = e.hasTable()
	known := 0
	for _, l := range like {
		known = max(known, len(l.slots))
	}
	for n := range uint32(1 << 20) {
		k, v := &bpf.SlotKey{Service: e.service, Slot: n}, &bpf.Backend{}
		err := lookup(m.slots, unsafe.Pointer(k), unsafe.Pointer(v))
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			if int(n) >= known {
				return e, m.readMembers(e, like)
			}
		case err != nil:
			return nil, wrap(err, "slots")
		default:
			e.slots = append(e.slots, slot{n, *v})
		}
	}
	return nil, fmt.Errorf("read map slots: there is no end of the slots of %s", e.key.Addr.Addr())
}

// readMembers looks for the members of every backend that the service has, had or is to have.
func (m *maps) readMembers(e *entries, like []*entries) error {
	asked := map[uint64]bool{}
	for _, l := range append([]*entries{e}, like...) {
		for _, mb := range membersOf(l.slots) {
			if asked[mb.backend] {
				continue
			}
			asked[mb.backend] = true
			k := &bpf.MemberKey{Service: e.service, Backend: mb.backend}
			var v uint32
			err := lookup(m.members, unsafe.Pointer(k), unsafe.Pointer(&v))
			if errors.Is(err, ebpf.ErrKeyNotExist) {
				continue
			}
			if err != nil {
				return wrap(err, "members")
			}
			e.members = append(e.members, member{mb.backend, v})
		}
	}
	slices.SortFunc(e.members, compareMembers)
	return nil
}
