package reconciler

import (
	"reflect"

	"plumb.internal/plumb/reconciler/resource"
)

// Alone are the objects in which two desired states differ, as they were and as they are to be, if all of them can be looked
// at by themselves (see ObserveOnly) and there are no more than most of them.
func Alone(was, is resource.State, most int) (before, after resource.State, ok bool) {
	return kinds.alone(was, is, most)
}

func (t table) alone(was, is resource.State, most int) (before, after resource.State, ok bool) {
	before, after = resource.State{}, resource.State{}
	for id, r := range is {
		old, had := was[id]
		k, looks := t[id.Kind], false
		if k != nil {
			looks = k.looks()
		}
		switch {
		case had && looks:
			if fields, _ := k.diff(old, r); len(fields) == 0 {
				continue
			}
		case had:
			// What counts as different is a kind's to say of what it observes, and not of what is wanted.
			if reflect.DeepEqual(old, r) {
				continue
			}
		}
		if !looks || len(after) == most {
			return nil, nil, false
		}
		if after[id] = r; had {
			before[id] = old
		}
	}
	left := most - len(after)
	for id, r := range was {
		if _, stays := is[id]; stays {
			continue
		}
		if k := t[id.Kind]; k == nil || !k.looks() || left == 0 {
			return nil, nil, false
		}
		before[id] = r
		left--
	}
	return before, after, true
}
