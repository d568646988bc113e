package host

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/cilium/ebpf"
)

// BPFMap is a pinned map that stays open until the next Forget or ForgetMaps.
type BPFMap struct {
	*ebpf.Map
	Name string // of the pin: "frontends.v1.65536"
}

// BPFMaps opens the pinned maps whose names begin with base and a dot; what is pinned so and isn't a map is left out. There is more than one only while a new one takes
// over: what is written goes to all of them.
func (h *Host) BPFMaps(base string) ([]BPFMap, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ms, ok := h.maps[base]; ok {
		return ms, nil
	}
	names, err := h.BPFNames(BPFMapFolder)
	if err != nil {
		return nil, err
	}
	var ms []BPFMap
	for _, name := range names {
		if !strings.HasPrefix(name, base+".") {
			continue
		}
		m, err := loadMap(h.BPFPath(BPFMapFolder, name))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrBPFType) {
			continue
		}
		if err != nil {
			closeMaps(ms)
			return nil, fmt.Errorf("open eBPF map %s: %w", name, err)
		}
		ms = append(ms, BPFMap{m, name})
	}
	if h.maps == nil {
		h.maps = map[string][]BPFMap{}
	}
	h.maps[base] = ms
	return ms, nil
}

// loadMap opens a pinned map. The error wraps ErrBPFType where something else is pinned.
func loadMap(path string) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err == nil {
		return m, nil
	}
	if why := withBPF(path, "bpf-map", func(int) error { return nil }); why != nil {
		return nil, why
	}
	return nil, err
}

// ForgetMaps is called by whoever made or removed a pinned map or program. Somebody may be using the open ones, so they aren't
// closed here: they close when nobody holds them any more.
func (h *Host) ForgetMaps() {
	h.mu.Lock()
	defer h.mu.Unlock()
	clear(h.maps)
	h.programs.forget()
	clear(h.opened)
}

func closeMaps(ms []BPFMap) {
	for _, m := range ms {
		m.Close()
	}
}
