package uplink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// base is the first part of the map's name.
const base = "uplinks"

// Observe implements reconciler.Ops: what is in the map that is wanted, else in the last one, which a new one is copied from.
func (Ops) Observe(_ context.Context, h *host.Host, wanted []Uplink) (owned, foreign []Uplink, err error) {
	pins, err := pinned(h)
	if err != nil {
		return nil, nil, err
	}
	if i := slices.IndexFunc(pins, func(m host.BPFMap) bool { return m.Name == wantedMap(wanted) }); i >= 0 {
		pins = pins[i : i+1]
	}
	held := map[uint32]uint32{}
	var in []resource.ID
	for _, m := range pins[max(0, len(pins)-1):] {
		in = []resource.ID{{Kind: "bpfmap", Name: m.Name}}
		if err := bpf.Each(m.Map, func(index, mtu uint32) { held[index] = mtu }); err != nil {
			return nil, nil, fmt.Errorf("read eBPF map %s: %w", m.Name, err)
		}
	}
	if len(held) == 0 {
		return nil, nil, nil
	}
	root, err := h.NS("")
	if err != nil {
		return nil, nil, err
	}
	links, err := root.Links()
	if err != nil {
		return nil, nil, err
	}
	devs := make(map[uint32]string, len(links))
	for _, l := range links {
		devs[uint32(l.Index)] = l.Name
	}
	for index, mtu := range held {
		dev, ok := devs[index]
		if !ok {
			dev = gone + strconv.FormatUint(uint64(index), 10)
		}
		owned = append(owned, Uplink{Dev: dev, MTU: int(mtu), Maps: in})
	}
	slices.SortFunc(owned, func(a, b Uplink) int { return a.ID().Compare(b.ID()) })
	return owned, nil, nil
}

// wantedMap is the name of the map that the entries are to be in; "" where none are wanted.
func wantedMap(wanted []Uplink) string {
	for _, w := range wanted {
		for _, id := range w.Maps {
			return id.Name
		}
	}
	return ""
}

// Create implements reconciler.Ops.
func (Ops) Create(_ context.Context, h *host.Host, u Uplink) error {
	if err := write(h, u); err != nil {
		return fmt.Errorf("create %s: %w", u.ID(), err)
	}
	return nil
}

// Update implements reconciler.Ops.
func (Ops) Update(_ context.Context, h *host.Host, _, to Uplink) error {
	if err := write(h, to); err != nil {
		return fmt.Errorf("update %s: %w", to.ID(), err)
	}
	return nil
}

// Delete implements reconciler.Ops.
func (Ops) Delete(_ context.Context, h *host.Host, u Uplink) error {
	if err := remove(h, u); err != nil {
		return fmt.Errorf("delete %s: %w", u.ID(), err)
	}
	return nil
}

// write puts the entry into all maps that haven't got it.
func write(h *host.Host, u Uplink) error {
	index, err := indexOf(h, u.Dev)
	if err != nil {
		return err
	}
	pins, err := pinned(h)
	if err != nil {
		return err
	}
	if len(pins) == 0 {
		return fmt.Errorf("there is no pinned map of %s: %w", base, fs.ErrNotExist)
	}
	for _, m := range pins {
		var there uint32
		if err := m.Lookup(index, &there); err == nil && there == uint32(u.MTU) {
			continue
		}
		h.Wrote("write %s into %s", u.ID(), m.Name)
		err := m.Put(index, uint32(u.MTU))
		if errors.Is(err, unix.E2BIG) && m.Name != wantedMap([]Uplink{u}) {
			continue // an old one, which is about to go
		}
		if err != nil {
			return fmt.Errorf("write %s into map %s: %w", u.Dev, m.Name, err)
		}
	}
	return nil
}

// remove takes the entry out of all maps. Where its device went meanwhile, the entry will be found as that of a device that is
// gone.
func remove(h *host.Host, u Uplink) error {
	index, err := indexOf(h, u.Dev)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	pins, err := pinned(h)
	if err != nil {
		return err
	}
	for _, m := range pins {
		var there uint32
		err := m.Lookup(index, &there)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("look for %s in map %s: %w", u.Dev, m.Name, err)
		}
		h.Wrote("delete %s from %s", u.ID(), m.Name)
		if err := m.Delete(index); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("delete %s from map %s: %w", u.Dev, m.Name, err)
		}
	}
	return nil
}

// indexOf is the key of a device's entry.
func indexOf(h *host.Host, dev string) (uint32, error) {
	if number, isGone := strings.CutPrefix(dev, gone); isGone {
		n, err := strconv.ParseUint(number, 10, 32)
		return uint32(n), err
	}
	_, index, err := h.Device("", dev)
	return uint32(index), err
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
