package service

import "slices"

// differing lists the slots of new that old lacks, in an order in which they can be written one by one: with each slot its
// member is written, and no backend that stays is without a slot meanwhile, or its clients would be given another. As with
// overlapping memory, what moves to the front goes first to last, then what moves to the back goes last to first, and what
// is new comes at the end. Only weights may make backends cross; then a moment without remains.
func differing(old, new *entries) []slot {
	var down, up, rest []slot
	stay := len(old.members) > 0 && len(new.members) > 0
	i := 0
	for _, s := range new.slots {
		for i < len(old.slots) && old.slots[i].number < s.number {
			i++
		}
		if i < len(old.slots) && old.slots[i] == s {
			continue
		}
		from, ok := 0, false
		if stay {
			from, ok = slices.BinarySearchFunc(old.members, member{backend: s.backend.ID}, compareMembers)
		}
		switch {
		case !ok || old.members[from].slot == s.number:
			rest = append(rest, s)
		case old.members[from].slot > s.number:
			down = append(down, s)
		default:
			up = append(up, s)
		}
	}
	slices.Reverse(up)
	return append(append(down, up...), rest...)
}
