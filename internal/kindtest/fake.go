package kindtest

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Kernel is a kernel in memory, for any number of kinds. It keeps to the relations that resources state: what must be
// there first, what dies with what, what excludes what.
type Kernel struct {
	// Outside, if set, says which objects that aren't in the kernel exist all the same: somebody else's.
	Outside func(resource.ID) bool
	// Fail, if set, is asked before every operation; its error becomes that of the operation.
	Fail func(action resource.Action, id resource.ID) error

	mu      sync.Mutex
	objects map[resource.ID]object
}

type object struct {
	resource.Resource
	foreign bool
}

// Objects returns what exists: plumb's objects, or with foreign somebody else's.
func (k *Kernel) Objects(foreign bool) resource.State {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := resource.State{}
	for id, o := range k.objects {
		if o.foreign == foreign {
			s[id] = o.Resource
		}
	}
	return s
}

// Plant puts somebody else's object into the kernel.
func (k *Kernel) Plant(r resource.Resource) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.put(r, true)
}

// Remove takes an object away, and what dies with it, as if somebody had done so behind plumb's back.
func (k *Kernel) Remove(id resource.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.remove(id)
}

func (k *Kernel) put(r resource.Resource, foreign bool) {
	if k.objects == nil {
		k.objects = map[resource.ID]object{}
	}
	k.objects[r.ID()] = object{r, foreign}
}

func (k *Kernel) remove(id resource.ID) {
	gone, ok := k.objects[id]
	if !ok {
		return
	}
	delete(k.objects, id)
	if b, ok := gone.Resource.(resource.Borrower); ok && b.Borrowed() {
		return
	}
	for other, o := range k.objects {
		if slices.Contains(o.DiesWith(), id) {
			k.remove(other)
		}
	}
}

// fits reports why the kernel would refuse r.
func (k *Kernel) fits(r resource.Resource) error {
	for _, p := range r.After() {
		if _, ok := k.objects[p]; !ok && (k.Outside == nil || !k.Outside(p)) {
			return fmt.Errorf("%s needs %s: %w", r.ID(), p, fs.ErrNotExist)
		}
	}
	c, ok := r.(resource.Claimer)
	if !ok {
		return nil
	}
	for id, o := range k.objects {
		other, ok := o.Resource.(resource.Claimer)
		if !ok || id == r.ID() {
			continue
		}
		for _, a := range c.Claims() {
			for _, b := range other.Claims() {
				if a.Key == b.Key && a.Value != b.Value {
					return fmt.Errorf("%s: %s is busy as %s of %s", r.ID(), a.Key, b.Value, id)
				}
			}
		}
	}
	return nil
}

// Differ is the pure part of a kind.
type Differ[R resource.Resource] interface {
	Diff(observed, desired R) (fields []resource.Field, inPlace bool)
}

// Fake are the operations of a kind on a Kernel in memory, with the kind's own Diff and, if it has them, its Conflicts.
type Fake[R resource.Resource] struct {
	Kernel *Kernel
	Real   Differ[R]
}

// Observe returns the kernel's objects of this kind; of foreign ones all.
func (f Fake[R]) Observe(context.Context, *host.Host, []R) (owned, foreign []R, err error) {
	for _, s := range []struct {
		foreign bool
		into    *[]R
	}{{false, &owned}, {true, &foreign}} {
		objects := f.Kernel.Objects(s.foreign)
		for _, id := range objects.IDs() {
			if r, ok := objects[id].(R); ok {
				*s.into = append(*s.into, r)
			}
		}
	}
	return owned, foreign, nil
}

// Diff is the kind's own.
func (f Fake[R]) Diff(observed, desired R) ([]resource.Field, bool) {
	return f.Real.Diff(observed, desired)
}

// Conflicts is the kind's own.
func (f Fake[R]) Conflicts(desired resource.State, foreign []R) []resource.Conflict {
	if c, ok := f.Real.(interface {
		Conflicts(desired resource.State, foreign []R) []resource.Conflict
	}); ok {
		return c.Conflicts(desired, foreign)
	}
	return nil
}

// Create puts r into the kernel, which refuses where something has the name.
func (f Fake[R]) Create(_ context.Context, h *host.Host, r R) error {
	return f.write(h, resource.Create, r.ID(), func() error {
		if _, ok := f.Kernel.objects[r.ID()]; ok {
			return fmt.Errorf("create %s: %w", r.ID(), fs.ErrExist)
		}
		if err := f.Kernel.fits(r); err != nil {
			return fmt.Errorf("create %s: %w", r.ID(), err)
		}
		f.Kernel.put(r, false)
		return nil
	})
}

// Update changes an object that is there.
func (f Fake[R]) Update(_ context.Context, h *host.Host, _, to R) error {
	return f.write(h, resource.Update, to.ID(), func() error {
		if o, ok := f.Kernel.objects[to.ID()]; !ok || o.foreign {
			return fmt.Errorf("update %s: %w", to.ID(), fs.ErrNotExist)
		}
		if err := f.Kernel.fits(to); err != nil {
			return fmt.Errorf("update %s: %w", to.ID(), err)
		}
		f.Kernel.put(to, false)
		return nil
	})
}

// Delete takes an object away, and what dies with it; somebody else's stays.
func (f Fake[R]) Delete(_ context.Context, h *host.Host, r R) error {
	k := f.Kernel
	k.mu.Lock()
	o, ok := k.objects[r.ID()]
	k.mu.Unlock()
	if !ok || o.foreign {
		return nil
	}
	return f.write(h, resource.Delete, r.ID(), func() error {
		k.remove(r.ID())
		return nil
	})
}

func (f Fake[R]) write(h *host.Host, a resource.Action, id resource.ID, do func() error) error {
	if f.Kernel.Fail != nil {
		if err := f.Kernel.Fail(a, id); err != nil {
			return err
		}
	}
	if h != nil {
		h.Wrote("%s %s", a, id)
	}
	f.Kernel.mu.Lock()
	defer f.Kernel.mu.Unlock()
	return do()
}
