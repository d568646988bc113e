package reconciler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// table holds every kind by its name.
type table map[resource.Kind]kind

// kind is the Ops of one kind with the type of its resources erased.
type kind interface {
	observe(ctx context.Context, h *host.Host, wanted []resource.Resource) (m matched, matches bool, err error)
	looks() bool
	look(ctx context.Context, h *host.Host, was, is resource.Resource) (resource.Resource, error)
	diff(observed, desired resource.Resource) (fields []resource.Field, inPlace bool)
	create(ctx context.Context, h *host.Host, r resource.Resource) error
	update(ctx context.Context, h *host.Host, from, to resource.Resource) error
	delete(ctx context.Context, h *host.Host, r resource.Resource) error
	finish(ctx context.Context, h *host.Host) error
	conflicts(desired resource.State, foreign []resource.Resource) []resource.Conflict
	decode(object []byte) (resource.Resource, error)
	keeps() bool
}

// of erases the type of a kind's resources.
func of[R resource.Resource](ops Ops[R]) kind { return erased[R]{ops} }

// erased is a kind whose resources are all R.
type erased[R resource.Resource] struct{ ops Ops[R] }

func (e erased[R]) observe(ctx context.Context, h *host.Host, wanted []resource.Resource) (m matched, matches bool, err error) {
	if ops, ok := e.ops.(Matcher[R]); ok {
		found, err := ops.Match(ctx, h, wanted)
		as := func(r resource.Resource) resource.Resource { return found.As(r.(R)) }
		return matched{widen(found.Owned), widen(found.Foreign), found.Others, as}, true, err
	}
	o, f, err := e.ops.Observe(ctx, h, narrow[R](wanted))
	return matched{owned: widen(o), foreign: widen(f)}, false, err
}

func (e erased[R]) looks() bool {
	_, ok := e.ops.(Looker[R])
	return ok
}

func (e erased[R]) look(ctx context.Context, h *host.Host, was, is resource.Resource) (resource.Resource, error) {
	ops, ok := e.ops.(Looker[R])
	if !ok {
		return nil, errors.New("objects of this kind can't be looked at one by one")
	}
	one := func(r resource.Resource) *R {
		if r == nil {
			return nil
		}
		typed := r.(R)
		return &typed
	}
	found, err := ops.Look(ctx, h, one(was), one(is))
	if err != nil || found == nil {
		return nil, err
	}
	return *found, nil
}

func (e erased[R]) diff(observed, desired resource.Resource) ([]resource.Field, bool) {
	return e.ops.Diff(observed.(R), desired.(R))
}

func (e erased[R]) create(ctx context.Context, h *host.Host, r resource.Resource) error {
	return e.ops.Create(ctx, h, r.(R))
}

func (e erased[R]) update(ctx context.Context, h *host.Host, from, to resource.Resource) error {
	return e.ops.Update(ctx, h, from.(R), to.(R))
}

func (e erased[R]) delete(ctx context.Context, h *host.Host, r resource.Resource) error {
	return e.ops.Delete(ctx, h, r.(R))
}

func (e erased[R]) finish(ctx context.Context, h *host.Host) error {
	if f, ok := e.ops.(Finisher); ok {
		return f.Finish(ctx, h)
	}
	return nil
}

func (e erased[R]) conflicts(desired resource.State, foreign []resource.Resource) []resource.Conflict {
	if c, ok := e.ops.(Conflicter[R]); ok {
		return c.Conflicts(desired, narrow[R](foreign))
	}
	return nil
}

func (e erased[R]) decode(object []byte) (resource.Resource, error) {
	var r R
	err := json.Unmarshal(object, &r)
	return r, err
}

func (e erased[R]) keeps() bool {
	_, ok := e.ops.(Keeper)
	return ok
}

// check reports the first resource whose kind isn't in the table.
func (t table) check(w *wanted) error {
	var unknown []resource.ID
	for kind, rs := range w.of {
		if _, ok := t[kind]; !ok {
			for _, r := range rs {
				unknown = append(unknown, r.ID())
			}
		}
	}
	if unknown == nil {
		return nil
	}
	return fmt.Errorf("plan %s: no such kind of object", slices.MinFunc(unknown, resource.ID.Compare))
}

// narrow gives resources their own type back.
func narrow[R resource.Resource](rs []resource.Resource) []R {
	out := make([]R, len(rs))
	for i, r := range rs {
		out[i] = r.(R)
	}
	return out
}

// widen forgets the type of resources.
func widen[R resource.Resource](rs []R) []resource.Resource {
	out := make([]resource.Resource, len(rs))
	for i, r := range rs {
		out[i] = r
	}
	return out
}
