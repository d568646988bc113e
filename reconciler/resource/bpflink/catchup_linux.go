package bpflink

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
)

// A program that takes over from one with other maps has to know what that has learnt since the maps were copied: while
// programs are checked by the kernel, clients go on connecting. So the copy is made up to date right before programs are
// exchanged. What begins between that and the exchange, some hundred microseconds, begins once more: a client that waits
// for its connection asks again after a second, and a connection that was made just then breaks.

// catches keeps the copying of a node with many attachments to half of the time.
type catches struct {
	mu    sync.Mutex
	ended time.Time
	took  time.Duration
}

type catchesKey struct{}

// catchUp brings what was learnt by other programs into the maps of one.
func catchUp(h *host.Host, program string) error {
	pairs, err := behind(h, program)
	if err != nil || len(pairs) == 0 {
		return err
	}
	c := h.Kept(catchesKey{}, func() any { return new(catches) }).(*catches)
	c.mu.Lock()
	defer c.mu.Unlock()
	began := time.Now()
	if began.Sub(c.ended) < c.took {
		return nil
	}
	for _, p := range pairs {
		wrote := func() { h.Wrote("copy what was learnt in %s to %s", p.from.Name, p.to.Name) }
		if p.converts {
			err = bpf.Convert(p.to.Map, p.base, p.from.Map, true, wrote)
		} else {
			err = bpf.Copy(p.to.Map, p.from.Map, true, wrote)
		}
		if err != nil && !errors.Is(err, unix.E2BIG) && !errors.Is(err, ebpf.ErrIterationAborted) && !errors.Is(err, bpf.ErrForeign) {
			return fmt.Errorf("copy what was learnt in %s to %s: %w", p.from.Name, p.to.Name, err)
		}
	}
	c.ended = time.Now()
	c.took = c.ended.Sub(began)
	return nil
}

// fromTo is a map and another one that is to know what it has learnt.
type fromTo struct {
	from, to host.BPFMap
	base     string
	converts bool // they are of different layouts
}

// behind pairs the maps of a program that hold what is learnt with others that do.
func behind(h *host.Host, program string) (pairs []fromTo, err error) {
	programs, err := h.BPFPrograms()
	if err != nil {
		return nil, err
	}
	for _, p := range programs {
		if p.Name != program {
			continue
		}
		for _, name := range p.Maps {
			base, version, _, ok := bpf.ParseMapName(name)
			if !ok || bpf.Layouts[base].Lives != bpf.Learnt || bpf.Layouts[base].Version != version {
				continue
			}
			all, err := h.BPFMaps(base)
			if errors.Is(err, fs.ErrNotExist) || len(all) < 2 {
				continue
			}
			if err != nil {
				return nil, err
			}
			for _, to := range all {
				for _, from := range all {
					_, was, _, known := bpf.ParseMapName(from.Name)
					same := from.KeySize() == to.KeySize() && from.ValueSize() == to.ValueSize()
					if to.Name == name && from.Name != name && known && (same || was != version) {
						pairs = append(pairs, fromTo{from, to, base, was != version})
					}
				}
			}
		}
	}
	return pairs, nil
}
