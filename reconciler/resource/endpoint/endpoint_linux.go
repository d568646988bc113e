package endpoint

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// The maps, by the first part of their names.
const (
	endpoints  = "endpoints"
	macs       = "macs"
	namespaces = "namespaces"
	paces      = "paces"
)

// Create implements reconciler.Ops. All entries in the maps are ours: one that is there is made right.
func (Ops) Create(_ context.Context, h *host.Host, e Endpoint) error {
	if err := write(h, Endpoint{Held: map[string]string{}}, e); err != nil {
		return fmt.Errorf("create %s: %w", e.ID(), err)
	}
	return nil
}

// Update implements reconciler.Ops. The entries that are to stay come first.
func (Ops) Update(_ context.Context, h *host.Host, from, to Endpoint) error {
	if err := write(h, from, to); err != nil {
		return fmt.Errorf("update %s: %w", to.ID(), err)
	}
	return nil
}

// Delete implements reconciler.Ops.
func (Ops) Delete(_ context.Context, h *host.Host, e Endpoint) error {
	if err := remove(h, e, names(e.entries())); err != nil {
		return fmt.Errorf("delete %s: %w", e.ID(), err)
	}
	return nil
}

// write brings the entries of from to those of to.
func write(h *host.Host, from, to Endpoint) error {
	entries := to.entries()
	values := map[string][]byte{} // by map
	for _, name := range names(entries) {
		base, key, err := locate(h, to, name)
		if err != nil {
			return err
		}
		if base == paces {
			values[base], err = paceOf(entries[name])
		} else if values[base] == nil {
			values[base], err = valueOf(h, to, base)
		}
		if err != nil {
			return err
		}
		pins, err := pinned(h, base)
		if err != nil {
			return err
		}
		if len(pins) == 0 {
			return fmt.Errorf("there is no pinned map of %s: %w", base, fs.ErrNotExist)
		}
		wanted := wantedMap(base, []Endpoint{to})
		for _, m := range pins {
			there, err := m.LookupBytes(key)
			if base == paces {
				keepGate(values[base], there)
			}
			if err == nil && bytes.Equal(there, values[base]) {
				continue
			}
			h.Wrote("write %s of %s into %s", name, to.ID(), m.Name)
			err = m.Put(key, values[base])
			if errors.Is(err, unix.E2BIG) && wanted != "" && m.Name != wanted {
				continue // an old one, which is about to go
			}
			if err != nil {
				return fmt.Errorf("write %s into map %s: %w", name, m.Name, err)
			}
		}
	}
	var old []string
	for name := range from.entries() {
		if _, ok := entries[name]; !ok && !to.leaves(name) {
			old = append(old, name)
		}
	}
	return remove(h, from, order(old))
}

// remove takes entries away, in the reverse of their order.
func remove(h *host.Host, e Endpoint, names []string) error {
	for _, name := range slices.Backward(names) {
		base, key, err := locate(h, e, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the namespace is gone, its cookie will be found among those of nobody
		}
		if err != nil {
			return err
		}
		pins, err := pinned(h, base)
		if err != nil {
			return err
		}
		for _, m := range pins {
			if there, err := m.LookupBytes(key); err != nil || there == nil {
				if err != nil {
					return fmt.Errorf("look for %s in map %s: %w", name, m.Name, err)
				}
				continue
			}
			h.Wrote("delete %s of %s from %s", name, e.ID(), m.Name)
			if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				return fmt.Errorf("delete %s from map %s: %w", name, m.Name, err)
			}
		}
	}
	return nil
}

// pinned lists the maps of a base that have this program's layout: more than one while one takes over from another.
func pinned(h *host.Host, base string) ([]host.BPFMap, error) {
	all, err := h.BPFMaps(base)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(slices.Clone(all), func(m host.BPFMap) bool {
		_, version, _, ok := bpf.ParseMapName(m.Name)
		return !ok || !bpf.Fits(base, version, m.Map)
	}), nil
}

// locate finds where an entry is, by its name. The error wraps fs.ErrNotExist where the pod's namespace is missing.
func locate(h *host.Host, e Endpoint, name string) (base string, key []byte, err error) {
	switch mac, isMAC := strings.CutPrefix(name, macPrefix); {
	case isMAC:
		hw, err := net.ParseMAC(mac)
		return macs, append(hw, 0, 0), err
	case strings.HasPrefix(name, oddPrefix):
		key, err := hex.DecodeString(name[len(oddPrefix):])
		return macs, key, err
	case name == namespace:
		ns, err := h.NS(e.NetNS)
		if err != nil {
			return "", nil, err
		}
		cookies, err := h.Cookies(ns)
		if err != nil {
			return "", nil, err
		}
		return namespaces, binary.LittleEndian.AppendUint64(nil, cookies[0]), nil
	}
	if cookie, ok := strings.CutPrefix(name, cookiePrefix); ok {
		n, err := strconv.ParseUint(cookie, 10, 64)
		return namespaces, binary.LittleEndian.AppendUint64(nil, n), err
	}
	base = endpoints
	addr, isPace := strings.CutPrefix(name, pacePrefix)
	if isPace {
		base = paces
	}
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return "", nil, err
	}
	k := bpf.AddressOf(a)
	return base, k[:], nil
}

// paceOf is the value of a pace's entry.
func paceOf(text string) ([]byte, error) {
	var v bpf.Pace
	if other, ok := strings.CutPrefix(text, with); ok {
		a, err := netip.ParseAddr(other)
		if err != nil {
			return nil, err
		}
		v.With = bpf.AddressOf(a)
	} else {
		rate, err := resource.ParseRate(text)
		if err != nil {
			return nil, err
		}
		v.Rate = rate
	}
	return binary.Append(nil, binary.LittleEndian, v)
}

// keepGate leaves what the programs write into a pace's entry as it is: what waits in a queue keeps its time, and what comes
// goes behind it. What is sent in between isn't counted.
func keepGate(value, there []byte) {
	if len(there) == len(value) {
		at := unsafe.Offsetof(bpf.Pace{}.Next)
		copy(value[at:at+8], there[at:])
	}
}

// valueOf is the value of the endpoint's entries in a map.
func valueOf(h *host.Host, e Endpoint, base string) ([]byte, error) {
	if base == namespaces {
		return binary.LittleEndian.AppendUint32(nil, 1), nil
	}
	_, index, err := h.Device("", e.Dev)
	if err != nil {
		return nil, err
	}
	if base == macs {
		return binary.LittleEndian.AppendUint32(nil, uint32(index)), nil
	}
	v := bpf.Endpoint{Ifindex: uint32(index), Attach: attachments[e.Attach], MTU: uint16(e.MTU)}
	if v.Attach == 0 {
		return nil, fmt.Errorf("attachment %q has no number", e.Attach)
	}
	for _, end := range []struct {
		to   *bpf.MAC
		text string
	}{{&v.MAC, e.MAC}, {&v.HostMAC, e.HostMAC}} {
		if end.text == "" {
			continue
		}
		mac, err := net.ParseMAC(end.text)
		if err != nil {
			return nil, err
		}
		copy(end.to[:], mac)
	}
	return binary.Append(nil, binary.LittleEndian, v)
}
