package bpfprog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cilium/ebpf"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Observe implements reconciler.Ops. Everything in the folder of programs is ours; nothing is foreign.
func (Ops) Observe(_ context.Context, h *host.Host, wanted []Program) (owned, foreign []Program, err error) {
	if len(wanted) > 0 {
		if err := h.NeedBPFFS(); err != nil { // before anything is written
			return nil, nil, err
		}
	}
	pinned, err := h.BPFPrograms()
	if err != nil {
		return nil, nil, err
	}
	for _, k := range pinned {
		p := named(k.Name)
		p.Fault = k.Fault
		for _, m := range k.Maps {
			p.Maps = append(p.Maps, resource.ID{Kind: "bpfmap", Name: m})
		}
		owned = append(owned, p)
	}
	return owned, nil, nil
}

func path(h *host.Host, p Program) string { return h.BPFPath(host.BPFProgramFolder, p.ID().Name) }

// Create implements reconciler.Ops.
func (Ops) Create(_ context.Context, h *host.Host, p Program) error {
	err := h.MakeBPFFolder(host.BPFProgramFolder)
	if err == nil {
		if _, there := os.Lstat(path(h, p)); there == nil {
			err = fs.ErrExist
		}
	}
	if err == nil {
		err = load(h, p)
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", p.ID(), err)
	}
	return nil
}

// Update implements reconciler.Ops: the same program again, with the maps that are pinned now. The old one runs until the
// links are moved.
func (Ops) Update(_ context.Context, h *host.Host, _, to Program) error {
	err := known(to)
	if err == nil {
		h.Wrote("unpin %s", to.ID())
		err = os.Remove(path(h, to))
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = load(h, to)
	}
	if err != nil {
		return fmt.Errorf("update %s: %w", to.ID(), err)
	}
	return nil
}

// known refuses a program of which only the name is known.
func known(p Program) error {
	if p.Object == "" {
		return errors.New("only its name is known: apply a configuration to make it")
	}
	return nil
}

func load(h *host.Host, p Program) error {
	if err := known(p); err != nil {
		return err
	}
	defer h.ForgetMaps() // who asks next sees the program
	pinned := map[string]*ebpf.Map{}
	for _, id := range p.Maps {
		base, _, _, _ := bpf.ParseMapName(id.Name)
		m, err := ebpf.LoadPinnedMap(h.BPFPath(host.BPFMapFolder, id.Name), nil)
		if err != nil {
			return fmt.Errorf("open %s: %w", id, err)
		}
		defer m.Close()
		pinned[base] = m
	}
	h.Wrote("load %s", p.ID())
	k, err := bpf.Load(p.Object, p.Base, p.Settings, pinned)
	if err != nil {
		return err
	}
	defer k.Close()
	if p.Base == sweep {
		// A timer that is set lives in its map. Where a kill comes before the pin, the program is started again.
		h.Wrote("start %s", p.ID())
		if err := bpf.StartSweep(k); err != nil {
			return err
		}
	}
	h.Wrote("pin %s", p.ID())
	if err := k.Pin(path(h, p)); err != nil {
		return fmt.Errorf("pin it: %w", err)
	}
	return nil
}

// sweep is the program that only sets a timer, by which it goes on; nothing is attached.
const sweep = "sweep"

// Delete implements reconciler.Ops. A program that is still attached goes when its link is moved or removed.
func (Ops) Delete(_ context.Context, h *host.Host, p Program) error {
	if _, err := os.Lstat(path(h, p)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	h.Wrote("unpin %s", p.ID())
	if err := os.Remove(path(h, p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete %s: %w", p.ID(), err)
	}
	h.ForgetMaps()
	return nil
}
