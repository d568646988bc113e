package exclusion

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// base is the first part of the map's name.
const base = "excluded"

// Observe implements reconciler.Ops: what is in the map that is wanted, else in the last one, which a new one is made beside.
// An empty map holds no exclusions.
func (Ops) Observe(_ context.Context, h *host.Host, wanted []Exclusions) (owned, foreign []Exclusions, err error) {
	pins, err := pinned(h)
	if err != nil {
		return nil, nil, err
	}
	if i := slices.IndexFunc(pins, func(m host.BPFMap) bool { return m.Name == wantedMap(wanted) }); i >= 0 {
		pins = pins[i : i+1]
	}
	var e Exclusions
	for _, m := range pins[max(0, len(pins)-1):] {
		e.Maps = []resource.ID{{Kind: "bpfmap", Name: m.Name}}
		err := bpf.Each(m.Map, func(p bpf.Prefix, _ uint32) { e.Prefixes = append(e.Prefixes, p.Prefix()) })
		if err != nil {
			return nil, nil, fmt.Errorf("read eBPF map %s: %w", m.Name, err)
		}
	}
	if len(e.Prefixes) == 0 {
		return nil, nil, nil
	}
	e.Prefixes = Sorted(e.Prefixes)
	return []Exclusions{e}, nil, nil
}

// wantedMap is the name of the map that the ranges are to be in; "" where none are wanted.
func wantedMap(wanted []Exclusions) string {
	for _, w := range wanted {
		for _, id := range w.Maps {
			return id.Name
		}
	}
	return ""
}

// Create implements reconciler.Ops.
func (Ops) Create(_ context.Context, h *host.Host, e Exclusions) error {
	if err := write(h, e, e.Prefixes); err != nil {
		return fmt.Errorf("create %s: %w", e.ID(), err)
	}
	return nil
}

// Update implements reconciler.Ops. What is to be excluded comes first.
func (Ops) Update(_ context.Context, h *host.Host, from, to Exclusions) error {
	err := write(h, to, to.Prefixes)
	if err == nil {
		err = remove(h, without(from.Prefixes, to.Prefixes))
	}
	if err != nil {
		return fmt.Errorf("update %s: %w", to.ID(), err)
	}
	return nil
}

// Delete implements reconciler.Ops.
func (Ops) Delete(_ context.Context, h *host.Host, e Exclusions) error {
	if err := remove(h, e.Prefixes); err != nil {
		return fmt.Errorf("delete %s: %w", e.ID(), err)
	}
	return nil
}

// write puts ranges into all maps that haven't got them.
func write(h *host.Host, e Exclusions, prefixes []netip.Prefix) error {
	pins, err := pinned(h)
	if err != nil {
		return err
	}
	if len(pins) == 0 {
		return fmt.Errorf("there is no pinned map of %s: %w", base, fs.ErrNotExist)
	}
	for _, m := range pins {
		there := map[bpf.Prefix]bool{}
		if err := bpf.Each(m.Map, func(p bpf.Prefix, _ uint32) { there[p] = true }); err != nil {
			return fmt.Errorf("read eBPF map %s: %w", m.Name, err)
		}
		for _, p := range prefixes {
			if there[bpf.PrefixOf(p)] {
				continue
			}
			h.Wrote("write %s of %s into %s", p, e.ID(), m.Name)
			err := m.Put(bpf.PrefixOf(p), uint32(1))
			if errors.Is(err, unix.ENOSPC) && m.Name != wantedMap([]Exclusions{e}) {
				continue // an old one, which is about to go
			}
			if err != nil {
				return fmt.Errorf("write %s into map %s: %w", p, m.Name, err)
			}
		}
	}
	return nil
}

// remove takes ranges out of all maps.
func remove(h *host.Host, prefixes []netip.Prefix) error {
	pins, err := pinned(h)
	if err != nil {
		return err
	}
	for _, m := range pins {
		there := map[bpf.Prefix]bool{}
		if err := bpf.Each(m.Map, func(p bpf.Prefix, _ uint32) { there[p] = true }); err != nil {
			return fmt.Errorf("read eBPF map %s: %w", m.Name, err)
		}
		for _, p := range prefixes {
			if !there[bpf.PrefixOf(p)] {
				continue
			}
			h.Wrote("delete %s of %s from %s", p, Exclusions{}.ID(), m.Name)
			if err := m.Delete(bpf.PrefixOf(p)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("delete %s from map %s: %w", p, m.Name, err)
			}
		}
	}
	return nil
}

// pinned lists the maps that have this program's layout: more than one while one takes over from another.
func pinned(h *host.Host) ([]host.BPFMap, error) {
	all, err := h.BPFMaps(base)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(all), func(m host.BPFMap) bool {
		_, version, _, ok := bpf.ParseMapName(m.Name)
		return !ok || !bpf.Fits(base, version, m.Map)
	}), nil
}
