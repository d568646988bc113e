package service

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Create implements reconciler.Ops.
func (Ops) Create(_ context.Context, h *host.Host, s Service) error {
	m, err := open(h, s.Maps)
	if err == nil {
		err = m.need()
	}
	if err == nil {
		want := encode(s.Frontend)
		err = m.change(s.ID(), &entries{service: want.service, key: want.key}, want)
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", s.ID(), err)
	}
	return nil
}

// Update implements reconciler.Ops: it writes the entries that differ from the observed ones.
func (Ops) Update(_ context.Context, h *host.Host, from, to Service) error {
	m, err := open(h, to.Maps)
	if err == nil {
		err = m.need()
	}
	old := from.held
	if err == nil && old == nil {
		old, err = m.read(encode(to.Frontend))
	}
	if err == nil {
		err = m.change(to.ID(), old, encode(to.Frontend))
	}
	if err != nil {
		return fmt.Errorf("update %s: %w", to.ID(), err)
	}
	return nil
}

// Delete implements reconciler.Ops.
func (Ops) Delete(_ context.Context, h *host.Host, s Service) error {
	m, err := open(h, s.Maps)
	if err != nil {
		return fmt.Errorf("delete %s: %w", s.ID(), err)
	}
	if len(s.stale) > 0 {
		later(h).add(s.stale...)
		return nil
	}
	if m.none() {
		return nil // the maps are gone, and all in them
	}
	if s.junk != nil {
		err = m.dropJunk(s.ID(), s.junk)
	} else {
		old := s.held
		if old == nil {
			old, err = m.read(encode(s.Frontend))
		}
		if err == nil {
			err = m.change(s.ID(), old, &entries{service: old.service, key: old.key})
		}
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", s.ID(), err)
	}
	return nil
}

// need fails where there are no maps to write to.
func (m *maps) need() error {
	if len(m.frontends) == 0 {
		return fmt.Errorf("there is no BPF map frontends in %s", m.h.BPFPath(host.BPFMapFolder))
	}
	return nil
}

// put writes one entry into all maps of a name; the observed one is the last, and has to have room for it. Where another
// one hasn't, that is about to go. What is made anew must not be there.
func (m *maps) put(maps []host.BPFMap, base, announce string, key, value unsafe.Pointer, anew bool) error {
	if len(maps) == 0 {
		return fmt.Errorf("there is no BPF map %s in %s", base, m.h.BPFPath(host.BPFMapFolder))
	}
	how := ebpf.UpdateAny
	if anew && len(maps) == 1 {
		how = ebpf.UpdateNoExist // of two, the first may have been written before a crash
	}
	for i, b := range maps {
		m.h.Wrote(announce, m.label)
		err := b.Update(key, value, how)
		full := errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC)
		switch {
		case full && i < len(maps)-1:
		case full:
			return fmt.Errorf("map %s is full: set a larger tuning.maps.services: %w", b.Name, err)
		case err != nil:
			return fmt.Errorf("write to map %s: %w", b.Name, err)
		}
	}
	return nil
}

// drop removes one entry from all maps of a name.
func (m *maps) drop(maps []host.BPFMap, announce string, key unsafe.Pointer) error {
	for _, b := range maps {
		m.h.Wrote(announce, m.label)
		if err := b.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete from map %s: %w", b.Name, err)
		}
	}
	return nil
}

// dropJunk removes exactly these keys.
func (m *maps) dropJunk(id resource.ID, j *junk) error {
	m.label = id
	for i := range j.frontends {
		if err := m.drop(m.frontends, "delete one of %s", unsafe.Pointer(&j.frontends[i])); err != nil {
			return err
		}
	}
	for i := range j.slots {
		if err := m.drop(m.slots, "delete one of %s", unsafe.Pointer(&j.slots[i])); err != nil {
			return err
		}
	}
	return nil
}

// elements are buffers for Maglev tables.
var elements = sync.Pool{New: func() any { return new([]byte) }}

// writeTable puts the table of new into an element that nobody uses.
func (m *maps) writeTable(e *entries) (element uint32, err error) {
	class := e.frontend.Class
	if element, err = m.take(class); err != nil {
		return 0, err
	}
	written := false
	defer func() {
		if !written { // also where a panic comes through: others may wait for it
			m.give(class, element)
			m.done()
		}
	}()
	arrays, err := m.arrays(class)
	if err != nil {
		return 0, err
	}
	buf := elements.Get().(*[]byte)
	defer elements.Put(buf)
	if n := elementSize(class); cap(*buf) < n {
		*buf = make([]byte, n)
	} else {
		*buf = (*buf)[:n]
	}
	e.buildTable(*buf)
	err = m.put(arrays, arrayName(class), "put the table of %s", unsafe.Pointer(&element), unsafe.Pointer(&(*buf)[0]), false)
	written = err == nil
	return element, err
}
