// Package kindtest is the one test that every kind of kernel object passes, on a kernel in memory and on the real one.
//
// A kind that has it is created, observed, changed, killed after every write, deleted twice, and put beside somebody
// else's object that looks like its own.
package kindtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Ops are what a kind can do; they are reconciler.Ops, which can't be imported here.
type Ops[R resource.Resource] interface {
	Observe(ctx context.Context, h *host.Host, wanted []R) (owned, foreign []R, err error)
	Diff(observed, desired R) (fields []resource.Field, inPlace bool)
	Create(ctx context.Context, h *host.Host, r R) error
	Update(ctx context.Context, h *host.Host, from, to R) error
	Delete(ctx context.Context, h *host.Host, r R) error
}

// Kind is one kind and what to try it with.
type Kind[R resource.Resource] struct {
	Ops Ops[R]
	// Samples are desired resources that the kernel can hold one at a time. Every one is changed into every other, so
	// samples of one ID exercise Update and replacement.
	Samples []R
	// Setup makes what the samples stand on, in the real kernel; nil for nothing.
	Setup func(t *testing.T, h *host.Host)
	// Foreign makes somebody else's object that looks like r, in the real kernel. The function that it returns fails the
	// test if the object has been touched. Nil for a kind without foreign objects.
	Foreign func(t *testing.T, h *host.Host, r R) (untouched func(t *testing.T))
	// Kept says that an object isn't made from a record: it stays for as long as there may be one.
	Kept bool
}

// Run puts a kind through everything.
func Run[R resource.Resource](t *testing.T, k Kind[R]) {
	t.Run("fake", func(t *testing.T) {
		f := fake[R]{k.Ops, map[resource.ID]object[R]{}}
		c := &course[R]{samples: k.Samples, kept: k.Kept, ops: f, open: func() *host.Host { return &host.Host{} }, close: func(*host.Host) {}}
		c.run(t)
		t.Run("foreign", func(t *testing.T) {
			r := k.Samples[0]
			f.objects[r.ID()] = object[R]{r, true}
			c.beside(t, r)
			if _, ok := f.objects[r.ID()]; !ok {
				t.Error("the foreign object is gone")
			}
		})
	})
	t.Run("kernel", func(t *testing.T) {
		h := Root(t)
		if k.Setup != nil {
			k.Setup(t, h)
		}
		c := &course[R]{samples: k.Samples, kept: k.Kept, ops: k.Ops, open: func() *host.Host {
			again, err := host.Open(h.Options)
			if err != nil {
				t.Fatal(err)
			}
			return again
		}, close: func(h *host.Host) { h.Close() }, runDir: h.RunDir}
		c.supported(t)
		c.run(t)
		if k.Foreign == nil {
			return
		}
		t.Run("foreign", func(t *testing.T) {
			r := c.samples[0]
			untouched := k.Foreign(t, h, r)
			c.beside(t, r)
			untouched(t)
		})
	})
}

// course is what a kind goes through, on one kernel.
type course[R resource.Resource] struct {
	ops     Ops[R]
	samples []R
	kept    bool
	open    func() *host.Host
	close   func(*host.Host)
	runDir  string   // "" for none
	files   []string // in the run folder at the start
}

func (c *course[R]) run(t *testing.T) {
	c.files = c.leftovers(t)
	for i, a := range c.samples {
		t.Run(fmt.Sprintf("sample %d", i), func(t *testing.T) {
			c.to(t, &a)
			c.nothingToDo(t, &a)
			c.deleteTwice(t, a)
		})
		t.Run(fmt.Sprintf("sample %d recorded", i), func(t *testing.T) { c.recorded(t, a) })
		for j := range c.samples {
			if i != j {
				t.Run(fmt.Sprintf("sample %d into %d", i, j), func(t *testing.T) {
					b := c.samples[j]
					c.to(t, &a)
					c.to(t, &b)
					c.nothingToDo(t, &b)
					c.to(t, nil)
				})
				t.Run(fmt.Sprintf("sample %d into %d, killed", i, j), func(t *testing.T) { c.killed(t, &a, &c.samples[j]) })
			}
		}
		t.Run(fmt.Sprintf("sample %d created, killed", i), func(t *testing.T) { c.killed(t, nil, &a) })
		t.Run(fmt.Sprintf("sample %d deleted, killed", i), func(t *testing.T) { c.killed(t, &a, nil) })
	}
}

// supported drops the samples that this kernel has no means for, with its own reason.
func (c *course[R]) supported(t *testing.T) {
	h := c.open()
	defer c.close(h)
	var able []R
	var reason error
	for _, r := range c.samples {
		err := c.ops.Create(t.Context(), h, r)
		if errors.Is(err, unix.EOPNOTSUPP) {
			reason = err
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		able = append(able, r)
		h.Forget()
		c.to(t, nil)
	}
	if len(able) == 0 {
		t.Skipf("this kernel can't: %v", reason)
	}
	c.samples = able
}

// to makes the kernel hold r and nothing else of this kind, and checks that it does.
func (c *course[R]) to(t *testing.T, r *R) {
	t.Helper()
	h := c.open()
	defer c.close(h)
	if err := c.converge(t.Context(), h, r); err != nil {
		t.Fatal(err)
	}
	c.holds(t, h, r)
}

// holds checks that the kernel has exactly r.
func (c *course[R]) holds(t *testing.T, h *host.Host, r *R) {
	t.Helper()
	h.Forget()
	owned, _, err := c.ops.Observe(t.Context(), h, list(r))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range owned {
		if r == nil || o.ID() != (*r).ID() {
			t.Errorf("left over: %s", resource.Describe(o))
			continue
		}
		if fields, _ := c.ops.Diff(o, *r); len(fields) > 0 {
			t.Errorf("%s differs from what was asked for: %+v", o.ID(), fields)
		}
	}
	if r != nil && len(owned) == 0 {
		t.Errorf("%s is not there", (*r).ID())
	}
	if r == nil {
		if now := c.leftovers(t); c.files != nil && !slices.Equal(now, c.files) {
			t.Errorf("files before %q, left over %q", c.files, now)
		}
	}
}

// nothingToDo checks that converging again writes nothing.
func (c *course[R]) nothingToDo(t *testing.T, r *R) {
	t.Helper()
	h := c.open()
	defer c.close(h)
	if err := c.converge(t.Context(), h, r); err != nil {
		t.Fatal(err)
	}
	if n := h.Writes(); n > 0 {
		t.Errorf("%d writes where there was nothing to do", n)
	}
}

// deleteTwice checks that deleting what is gone is no error, and writes nothing.
func (c *course[R]) deleteTwice(t *testing.T, r R) {
	t.Helper()
	h := c.open()
	defer c.close(h)
	if err := c.ops.Delete(t.Context(), h, r); err != nil {
		t.Fatal(err)
	}
	n := h.Writes()
	if n == 0 {
		t.Error("a delete announced no write")
	}
	h.Forget()
	if err := c.ops.Delete(t.Context(), h, r); err != nil {
		t.Fatalf("the second time: %v", err)
	}
	if h.Writes() != n {
		t.Error("deleting what is gone writes something")
	}
	c.holds(t, h, nil)
}

// recorded checks that what is observed can be written down and read again, that this is what is there, and that what was
// deleted comes back from it.
func (c *course[R]) recorded(t *testing.T, a R) {
	t.Helper()
	c.to(t, &a)
	h := c.open()
	defer c.close(h)
	owned, _, err := c.ops.Observe(t.Context(), h, list(&a))
	if err != nil {
		t.Fatal(err)
	}
	state := resource.State{}
	for _, o := range owned {
		if err := state.Add(o); err != nil {
			t.Fatal(err)
		}
	}
	data, err := json.Marshal(resource.Restored(state)[a.ID()])
	if err != nil {
		t.Fatal(err)
	}
	var again R
	if err := json.Unmarshal(data, &again); err != nil {
		t.Fatalf("read %s: %v", data, err)
	}
	if again.ID() != a.ID() {
		t.Fatalf("recorded %s, read %s", a.ID(), again.ID())
	}
	if fields, _ := c.ops.Diff(state[a.ID()].(R), again); len(fields) > 0 {
		t.Errorf("the record differs from what is there: %+v", fields)
	}
	c.nothingToDo(t, &again)
	if !c.kept {
		c.to(t, nil)
		c.to(t, &again)
		c.nothingToDo(t, &a)
	}
	c.to(t, nil)
}

// stop is what OnWrite panics with where a kill is played.
type stop struct{ what string }

// killed goes from a to b, is stopped before each write in turn, and must then converge.
func (c *course[R]) killed(t *testing.T, a, b *R) {
	for n := 1; ; n++ {
		c.to(t, a)
		h := c.open()
		h.OnWrite = func(i int, what string) {
			if i == n {
				panic(stop{what})
			}
		}
		at, err := c.interrupted(t.Context(), h, b)
		c.close(h)
		if err != nil {
			t.Fatal(err)
		}
		if at == "" {
			break
		}
		c.to(t, b)
		if t.Failed() {
			t.Fatalf("killed at write %d: %s", n, at)
		}
	}
	c.to(t, nil)
}

// interrupted converges until OnWrite stops it, and reports at which write; "" where it came to its end.
func (c *course[R]) interrupted(ctx context.Context, h *host.Host, r *R) (at string, err error) {
	defer func() {
		if p := recover(); p != nil {
			s, ok := p.(stop)
			if !ok {
				panic(p)
			}
			at = s.what
		}
	}()
	return "", c.converge(ctx, h, r)
}

// beside checks that somebody else's object in the place of r is reported, and neither taken over nor removed.
func (c *course[R]) beside(t *testing.T, r R) {
	t.Helper()
	h := c.open()
	defer c.close(h)
	owned, foreign, err := c.ops.Observe(t.Context(), h, []R{r})
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(owned, func(o R) bool { return o.ID() == r.ID() }) {
		t.Error("the foreign object is taken for ours")
	}
	reported := slices.ContainsFunc(foreign, func(f R) bool { return f.ID() == r.ID() })
	if k, ok := c.ops.(conflicter[R]); ok && len(k.Conflicts(resource.State{r.ID(): r}, foreign)) > 0 {
		reported = true
	}
	if !reported {
		t.Errorf("the foreign object isn't reported; foreign are %v", foreign)
	}
	if err := c.ops.Create(t.Context(), h, r); err == nil {
		t.Error("create succeeds over a foreign object")
	}
	h.Forget()
	if err := c.ops.Delete(t.Context(), h, r); err != nil {
		t.Errorf("delete where only a foreign object is: %v", err)
	}
}

// converge is the reconciler for one kind.
func (c *course[R]) converge(ctx context.Context, h *host.Host, r *R) error {
	err := c.change(ctx, h, r)
	if f, ok := c.ops.(interface {
		Finish(ctx context.Context, h *host.Host) error
	}); ok && err == nil {
		err = f.Finish(ctx, h)
	}
	return err
}

func (c *course[R]) change(ctx context.Context, h *host.Host, r *R) error {
	h.Forget()
	owned, _, err := c.ops.Observe(ctx, h, list(r))
	if err != nil {
		return err
	}
	var have *R
	for _, o := range owned {
		if r != nil && o.ID() == (*r).ID() {
			have = &o
			continue
		}
		if err := c.ops.Delete(ctx, h, o); err != nil {
			return err
		}
	}
	switch {
	case r == nil:
		return nil
	case have == nil:
		return c.ops.Create(ctx, h, *r)
	}
	fields, inPlace := c.ops.Diff(*have, *r)
	switch {
	case len(fields) == 0:
		return nil
	case inPlace:
		return c.ops.Update(ctx, h, *have, *r)
	}
	if err := c.ops.Delete(ctx, h, *have); err != nil {
		return err
	}
	return c.ops.Create(ctx, h, *r)
}

func list[R any](r *R) []R {
	if r == nil {
		return nil
	}
	return []R{*r}
}

// leftovers lists the files in the run folder.
func (c *course[R]) leftovers(t *testing.T) []string {
	t.Helper()
	if c.runDir == "" {
		return nil
	}
	files := []string{}
	err := filepath.WalkDir(c.runDir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
