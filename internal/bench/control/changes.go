package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/service"
)

const changesEach = 4 // of one backend, in each process

// changes measures in this process, from the compiled state: all services into maps that are there, and one backend.
func (c *child) changes(profile string) error {
	ctx := context.Background()
	start := time.Now()
	src, err := compiler.Load(ctx, c.dir, nil)
	if err != nil {
		return err
	}
	c.add("g1 in this process: load the files, ms", ms(time.Since(start)))
	defer src.Close()
	cpu := processor()
	set, err := features.Probe(ctx)
	if err != nil {
		return err
	}
	c.add("g3 ask the kernel what it can do, ms of processor", ms(processor()-cpu))
	start = time.Now()
	compiled, err := compiler.Compile(src.Config, "bench", set)
	if err != nil {
		return err
	}
	c.add("g2 compile, ms", ms(time.Since(start)))
	h, err := host.Open(host.Options{Node: "bench", RunDir: c.run, BPFFS: filepath.Join(c.bpffs, "plumb", "bench"), Cgroup: c.cgroup})
	if err != nil {
		return err
	}
	defer h.Close()
	empty := maps.Clone(compiled.State)
	maps.DeleteFunc(empty, func(id resource.ID, _ resource.Resource) bool { return id.Kind == service.Kind })
	cpu = processor()
	if err := reconciler.Converge(ctx, h, empty); err != nil {
		return err
	}
	c.add("g4 pods, programs and empty maps, verified, ms of processor", ms(processor()-cpu))
	if err := c.converge(ctx, h, compiled.State, "i all services", "j   of which maps programmed", "k   and verified"); err != nil {
		return err
	}
	if err := ask(c.services - 1); err != nil {
		return fmt.Errorf("ask the last service: %w", err)
	}
	state := maps.Clone(compiled.State)
	id := service.For(resource.Frontend{Address: serviceAddress(c.services / 2), Port: port, Protocol: "TCP"})
	change := func(i int) error {
		f, ok := state[id].(service.Service)
		if !ok {
			return fmt.Errorf("there is no %s", id)
		}
		f.Backends = slices.Clone(f.Backends)
		f.Backends[2].Address = backendAddress(c.services, i) // the last one, so that they stay in order
		state[id] = f
		return c.converge(ctx, h, state, "l one backend changed: observe, diff and apply", "m   of which apply", "n   and verified")
	}
	for i := range changesEach {
		before, err := c.entries()
		if err != nil {
			return err
		}
		written := h.Writes()
		if err := change(i); err != nil {
			return err
		}
		c.add("o   writes", float64(h.Writes()-written))
		after, err := c.entries()
		if err != nil {
			return err
		}
		c.add("p   entries that differ after it", float64(differing(before, after)))
	}
	if err := c.alone(ctx, h, id, state[id].(service.Service)); err != nil {
		return err
	}
	if profile == "" {
		return nil
	}
	f, err := os.Create(profile)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	for i := range 5 * changesEach {
		if err := change(i); err != nil {
			return err
		}
	}
	return nil
}

// alone measures the same change of one service where it is known that nothing else changes.
func (c *child) alone(ctx context.Context, h *host.Host, id resource.ID, s service.Service) error {
	for i := range changesEach {
		runtime.GC()
		to := s
		to.Backends = slices.Clone(s.Backends)
		to.Backends[2].Address = backendAddress(c.services, changesEach+i)
		written := h.Writes()
		start, cpu := time.Now(), processor()
		if err := reconciler.ConvergeOnly(ctx, h, resource.State{id: s}, resource.State{id: to}); err != nil {
			return err
		}
		c.add("q1 one backend changed, by itself: observe, diff, apply and verify, ms", ms(time.Since(start)))
		c.add("q2 one backend changed, by itself: observe, diff, apply and verify"+byProcessor, ms(processor()-cpu))
		c.add("q3   writes", float64(h.Writes()-written))
		s = to
	}
	return nil
}

// converge measures what an apply does after compiling.
func (c *child) converge(ctx context.Context, h *host.Host, state resource.State, whole, apply, verify string) error {
	runtime.GC()
	note := func(name string, start time.Time, cpu time.Duration) {
		c.add(name+", ms", ms(time.Since(start)))
		c.add(name+byProcessor, ms(processor()-cpu))
	}
	start, cpu := time.Now(), processor()
	o, err := reconciler.Observe(ctx, h, state)
	if err != nil {
		return err
	}
	p, err := reconciler.Diff(state, o)
	if err != nil {
		return err
	}
	applying, applyingCPU := time.Now(), processor()
	if err := reconciler.Apply(ctx, h, p, reconciler.ApplyOptions{}); err != nil {
		return err
	}
	note(apply, applying, applyingCPU)
	note(whole, start, cpu)
	start, cpu = time.Now(), processor()
	if err := reconciler.Verify(ctx, h, state); err != nil {
		return err
	}
	note(verify, start, cpu)
	return nil
}

// entries are all entries of the maps that the files decide about.
func (c *child) entries() (map[string][]byte, error) {
	all := map[string][]byte{}
	err := c.pinned(func(name string, m *ebpf.Map) error {
		base, _, _ := strings.Cut(name, ".")
		if base, _, _ = strings.Cut(base, ":"); !slices.Contains([]string{"frontends", "slots", "members", "endpoints"}, base) {
			return nil
		}
		var key, value []byte
		entries := m.Iterate()
		for entries.Next(&key, &value) {
			all[base+string(key)] = bytes.Clone(value)
		}
		return entries.Err()
	})
	if err == nil && len(all) == 0 {
		err = errors.New("the maps are empty")
	}
	return all, err
}

// differing counts the entries that one has and the other hasn't, or otherwise.
func differing(a, b map[string][]byte) (n int) {
	for k, v := range b {
		if old, ok := a[k]; !ok || !bytes.Equal(old, v) {
			n++
		}
	}
	for k := range a {
		if _, ok := b[k]; !ok {
			n++
		}
	}
	return n
}
