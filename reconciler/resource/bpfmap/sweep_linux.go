package bpfmap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
)

// Finish implements reconciler.Finisher. Where the kernel has no timers for programs (before 5.15), and so no program
// "sweep", nobody takes flows and affinities that are over out of their maps but whoever needs the room: here an apply that
// has changed something does. That is no change of the configuration, and isn't counted as a write.
func (Ops) Finish(_ context.Context, h *host.Host) error {
	programs, err := h.BPFPrograms()
	if err != nil || slices.ContainsFunc(programs, func(p host.BPFProgram) bool { return strings.HasPrefix(p.Name, "sweep.") }) {
		return err
	}
	var maps []*ebpf.Map
	for _, base := range []string{"flows", "frontends", "affinities"} {
		pinned, err := h.BPFMaps(base)
		if err != nil {
			return err
		}
		if len(pinned) != 1 || pinned[0].KeySize() != bpf.Layouts[base].Key || pinned[0].ValueSize() != bpf.Layouts[base].Value {
			return nil // there are no services, or another map takes over: the next apply will do
		}
		maps = append(maps, pinned[0].Map)
	}
	now, err := bpf.SinceBoot()
	if err != nil {
		return err
	}
	// Entries that go meanwhile end a pass where the kernel gives no batches.
	if _, err := bpf.Sweep(maps[0], maps[1], maps[2], now); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("forget what is over: %w", err)
	}
	return nil
}
