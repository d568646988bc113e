package reconciler

import (
	"reflect"

	"plumb.internal/plumb/reconciler/resource"
)

// wanted is a desired state and its objects by kind.
type wanted struct {
	state resource.State
	of    map[resource.Kind][]resource.Resource
}

// sorted sorts a desired state by kind. Of very many objects one pass takes milliseconds: it is made once a look.
func sorted(s resource.State) *wanted {
	w := &wanted{s, map[resource.Kind][]resource.Resource{}}
	var (
		kind resource.Kind
		run  []resource.Resource
	)
	for id, r := range s {
		if id.Kind != kind {
			if run != nil {
				w.of[kind] = run
			}
			kind, run = id.Kind, w.of[id.Kind]
		}
		run = append(run, r)
	}
	if run != nil {
		w.of[kind] = run
	}
	return w
}

// is reports whether s is the very state that was sorted.
func (w *wanted) is(s resource.State) bool {
	return w != nil && reflect.ValueOf(s).Pointer() == reflect.ValueOf(w.state).Pointer()
}

// without is the state without some kinds.
func (w *wanted) without(kinds map[resource.Kind]matched) resource.State {
	if len(kinds) == 0 {
		return w.state
	}
	rest := resource.State{}
	for kind, rs := range w.of {
		if _, ok := kinds[kind]; !ok {
			for _, r := range rs {
				rest[r.ID()] = r
			}
		}
	}
	return rest
}
