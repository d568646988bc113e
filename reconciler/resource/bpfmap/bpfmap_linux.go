package bpfmap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/cilium/ebpf"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
)

// Observe implements reconciler.Ops. Everything in the folder of maps is ours; nothing is foreign.
func (Ops) Observe(_ context.Context, h *host.Host, wanted []Map) (owned, foreign []Map, err error) {
	if len(wanted) > 0 {
		if err := h.NeedBPFFS(); err != nil { // before anything is written
			return nil, nil, err
		}
	}
	names, err := h.BPFNames(host.BPFMapFolder)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range names {
		m := named(name)
		switch {
		case m.Pin != "":
		case m.now() > 0:
			k, err := open(h, m)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				m.Fault = err.Error()
			} else {
				k.Close()
			}
		case bpf.Layouts[m.Base].Lives == bpf.Learnt:
			if k, err := ebpf.LoadPinnedMap(path(h, m), nil); err == nil {
				if err := bpf.Convertible(m.Base, k); err != nil {
					h.Warn("%s is of another version of plumb, and the connections in it can't be taken over: they end: %v", m.ID(), err)
				}
				k.Close()
			}
		}
		owned = append(owned, m)
	}
	return owned, nil, nil
}

// now is 1 for a map of the present layout, else 0.
func (m Map) now() int {
	if m.Version == Version(m.Base) {
		return 1
	}
	return 0
}

// named is the map that a name of a pin promises.
func named(name string) Map {
	base, version, entries, ok := bpf.ParseMapName(name)
	if !ok {
		return Map{Pin: name}
	}
	return Map{Base: base, Version: version, Entries: entries}
}

func path(h *host.Host, m Map) string { return h.BPFPath(host.BPFMapFolder, m.ID().Name) }

// open opens a map that is what its name says; nothing else should be read.
func open(h *host.Host, m Map) (*ebpf.Map, error) {
	k, err := ebpf.LoadPinnedMap(path(h, m), nil)
	if err != nil {
		return nil, err
	}
	if err := check(k, m); err != nil {
		k.Close()
		return nil, err
	}
	return k, nil
}

// check says how a map differs from what its name says.
func check(k *ebpf.Map, m Map) error {
	l := bpf.Layouts[m.Base]
	if k.Type() == l.Type && k.KeySize() == l.Key && k.ValueSize() == l.Value && k.Flags() == l.Flags &&
		k.MaxEntries() == uint32(m.Entries) {
		return nil
	}
	return fmt.Errorf("%v of %d entries, key %d B, value %d B, flags %#x", k.Type(), k.MaxEntries(), k.KeySize(), k.ValueSize(), k.Flags())
}

// Create implements reconciler.Ops: it makes the map, copies what lives from maps of other sizes, and what was learnt from
// those of other layouts, and only then lets others see it.
func (Ops) Create(_ context.Context, h *host.Host, m Map) error {
	if err := create(h, m); err != nil {
		return fmt.Errorf("create %s: %w", m.ID(), err)
	}
	return nil
}

func create(h *host.Host, m Map) error {
	if err := h.MakeBPFFolder(host.BPFMapFolder); err != nil {
		return err
	}
	if m.Version != Version(m.Base) {
		return fmt.Errorf("there is no such layout of map %s", m.Base)
	}
	if _, err := os.Lstat(path(h, m)); err == nil {
		return fs.ErrExist
	}
	h.Wrote("make %s", m.ID())
	k, err := bpf.NewMap(m.Base, m.Entries)
	if err != nil {
		return err
	}
	defer k.Close()
	if err := check(k, m); err != nil {
		return fmt.Errorf("the kernel made another map than it was asked for: %w", err)
	}
	if lives := bpf.Layouts[m.Base].Lives; lives != bpf.Lost {
		others, err := siblings(h, m)
		if err != nil {
			return err
		}
		if lives == bpf.Configured {
			// After a kill one may be behind the other. The kinds that write them observe the last one, of this layout.
			others = slices.DeleteFunc(others, func(o Map) bool { return o.Version != m.Version })
			others = others[max(0, len(others)-1):]
		}
		for i, o := range others {
			err := copyTo(h, k, m, o, i > 0)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	h.Wrote("pin %s", m.ID())
	if err := k.Pin(path(h, m)); err != nil {
		return err
	}
	h.ForgetMaps()
	return nil
}

// Update implements reconciler.Ops; Diff never asks for it.
func (Ops) Update(_ context.Context, _ *host.Host, _, to Map) error {
	return fmt.Errorf("update %s: a map can't be changed", to.ID())
}

// Delete implements reconciler.Ops. What the programs wrote into the map after another one had copied it is brought over
// first. Programs that still use the map keep it until they go.
func (Ops) Delete(_ context.Context, h *host.Host, m Map) error {
	if err := remove(h, m); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete %s: %w", m.ID(), err)
	}
	return nil
}

func remove(h *host.Host, m Map) error {
	if _, err := os.Lstat(path(h, m)); err != nil {
		return err
	}
	if m.Pin == "" && m.Fault == "" && bpf.Layouts[m.Base].Lives == bpf.Learnt {
		others, err := siblings(h, m)
		if err != nil {
			return err
		}
		for _, o := range others {
			if o.now() == 0 {
				continue // about to go, too
			}
			to, err := open(h, o)
			if err != nil {
				continue // gone, or not what its name says
			}
			err = copyTo(h, to, o, m, true)
			to.Close()
			if err != nil {
				return err
			}
		}
	}
	h.Wrote("unpin %s", m.ID())
	if err := os.Remove(path(h, m)); err != nil {
		return err
	}
	h.ForgetMaps()
	return nil
}

// siblings are the other maps of the same base, those of the present layout first.
func siblings(h *host.Host, m Map) ([]Map, error) {
	names, err := h.BPFNames(host.BPFMapFolder)
	if err != nil {
		return nil, err
	}
	var others []Map
	for _, name := range names {
		if o := named(name); o.Base == m.Base && o.ID() != m.ID() {
			others = append(others, o)
		}
	}
	slices.SortStableFunc(others, func(a, b Map) int {
		return -cmp.Compare(a.now(), b.now())
	})
	return others, nil
}
