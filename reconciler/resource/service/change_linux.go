package service

import (
	"slices"
	"unsafe"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/reconciler/resource"
)

// change writes what differs between the entries of a service that are there and those that should be. At every moment
// clients find a backend that they may have:
//
//  1. slots that new clients may be given, or nobody looks at yet, each with its member;
//  2. the Maglev table, in an element that nobody uses;
//  3. the frontend;
//  4. slots that were given to new clients until now, and aren't any more;
//  5. what is gone: members, then slots, from the last on.
func (m *maps) change(id resource.ID, old, new *entries) error {
	m.label = id
	members := slices.DeleteFunc(slices.Clone(new.members), func(mb member) bool { return slices.Contains(old.members, mb) })
	var late []slot
	for _, s := range differing(old, new) {
		if s.number >= new.frontend.Slots && s.number < old.frontend.Slots {
			late = append(late, s)
			continue
		}
		if err := m.putSlot(new.service, s); err != nil {
			return err
		}
		if i := slices.Index(members, member{s.backend.ID, s.number}); i >= 0 {
			if err := m.putMember(new.service, members[i]); err != nil {
				return err
			}
			members = slices.Delete(members, i, i+1)
		}
	}
	for _, mb := range members {
		if err := m.putMember(new.service, mb); err != nil {
			return err
		}
	}
	if err := m.changeFrontend(old, new); err != nil {
		return err
	}
	m.forgetGone(old, new)
	for _, s := range late {
		if err := m.putSlot(new.service, s); err != nil {
			return err
		}
	}
	return m.remove(old, new)
}

func (m *maps) putSlot(service uint64, s slot) error {
	m.slotKey = bpf.SlotKey{Service: service, Slot: s.number}
	return m.put(m.slots, "slots", "put a slot of %s", unsafe.Pointer(&m.slotKey), unsafe.Pointer(&s.backend), false)
}

func (m *maps) putMember(service uint64, mb member) error {
	m.memberKey = bpf.MemberKey{Service: service, Backend: mb.backend}
	return m.put(m.members, "members", "put a member of %s", unsafe.Pointer(&m.memberKey), unsafe.Pointer(&mb.slot), false)
}

// changeFrontend writes or removes the frontend, and its table before it.
func (m *maps) changeFrontend(old, new *entries) (err error) {
	if !new.there {
		if !old.there {
			return nil
		}
		err := m.drop(m.frontends, "delete %s", unsafe.Pointer(&old.key))
		if err == nil && old.owns {
			m.give(old.frontend.Class, old.frontend.Table)
		}
		return err
	}
	f := &new.frontend
	f.Next = old.frontend.Next
	made := false
	if new.hasTable() {
		f.Table = old.frontend.Table
		keeps := old.table && old.hasTable() && old.frontend.Size == f.Size && old.frontend.Class == f.Class && old.inputs() == new.inputs()
		if made = !keeps; made {
			if f.Table, err = m.writeTable(new); err != nil {
				return err
			}
			defer m.done()
		}
	}
	if old.there && old.frontend == *f {
		return nil
	}
	if err := m.put(m.frontends, "frontends", "put %s", unsafe.Pointer(&new.key), unsafe.Pointer(f), !old.there); err != nil {
		if made {
			m.give(f.Class, f.Table)
		}
		return err
	}
	if old.owns && (made || !new.hasTable()) {
		m.give(old.frontend.Class, old.frontend.Table)
	}
	return nil
}

// remove takes away the members and slots that are no longer.
func (m *maps) remove(old, new *entries) error {
	for _, mb := range old.members {
		if _, stays := slices.BinarySearchFunc(new.members, mb, compareMembers); stays {
			continue
		}
		m.memberKey = bpf.MemberKey{Service: old.service, Backend: mb.backend}
		if err := m.drop(m.members, "delete a member of %s", unsafe.Pointer(&m.memberKey)); err != nil {
			return err
		}
	}
	for _, s := range slices.Backward(old.slots) {
		if int(s.number) < len(new.slots) {
			break
		}
		m.slotKey = bpf.SlotKey{Service: old.service, Slot: s.number}
		if err := m.drop(m.slots, "delete a slot of %s", unsafe.Pointer(&m.slotKey)); err != nil {
			return err
		}
	}
	return nil
}
