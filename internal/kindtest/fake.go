package kindtest

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// fake are the operations of a kind on a kernel in memory, with the kind's own Diff and, if it has them, its Conflicts.
type fake[R resource.Resource] struct {
	Ops[R]
	objects map[resource.ID]object[R]
}

type object[R resource.Resource] struct {
	r       R
	foreign bool
}

// Observe returns the objects of this kind; of foreign ones all.
func (f fake[R]) Observe(context.Context, *host.Host, []R) (owned, foreign []R, err error) {
	for _, id := range slices.SortedFunc(maps.Keys(f.objects), resource.ID.Compare) {
		if o := f.objects[id]; o.foreign {
			foreign = append(foreign, o.r)
		} else {
			owned = append(owned, o.r)
		}
	}
	return owned, foreign, nil
}

// conflicter is reconciler.Conflicter.
type conflicter[R resource.Resource] interface {
	Conflicts(desired resource.State, foreign []R) []resource.Conflict
}

// Conflicts is the kind's own.
func (f fake[R]) Conflicts(desired resource.State, foreign []R) []resource.Conflict {
	if c, ok := f.Ops.(conflicter[R]); ok {
		return c.Conflicts(desired, foreign)
	}
	return nil
}

// Create refuses where something has the name.
func (f fake[R]) Create(_ context.Context, h *host.Host, r R) error {
	h.Wrote("create %s", r.ID())
	if _, ok := f.objects[r.ID()]; ok {
		return fmt.Errorf("create %s: %w", r.ID(), fs.ErrExist)
	}
	f.objects[r.ID()] = object[R]{r: r}
	return nil
}

// Update changes an object that is there.
func (f fake[R]) Update(_ context.Context, h *host.Host, _, to R) error {
	h.Wrote("update %s", to.ID())
	if o, ok := f.objects[to.ID()]; !ok || o.foreign {
		return fmt.Errorf("update %s: %w", to.ID(), fs.ErrNotExist)
	}
	f.objects[to.ID()] = object[R]{r: to}
	return nil
}

// Delete takes an object away; somebody else's stays.
func (f fake[R]) Delete(_ context.Context, h *host.Host, r R) error {
	if o, ok := f.objects[r.ID()]; ok && !o.foreign {
		h.Wrote("delete %s", r.ID())
		delete(f.objects, r.ID())
	}
	return nil
}
