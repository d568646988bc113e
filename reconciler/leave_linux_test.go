package reconciler_test

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// counting is somebody's program, which counts its runs and lets everything pass.
func counting(t *testing.T, kind ebpf.ProgramType, at ebpf.AttachType, pass int32) (p *ebpf.Program, runs func() uint64) {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	p, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: kind, AttachType: at, License: "GPL", Instructions: asm.Instructions{
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, m.FD()), asm.FnMapLookupElem.Call(), asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1), asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, pass).WithSymbol("out"), asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, func() (n uint64) {
		if err := m.Lookup(uint32(0), &n); err != nil {
			t.Error(err)
		}
		return n
	}
}

// number is the kernel's own of a program.
func number(t *testing.T, p *ebpf.Program) uint32 {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return uint32(id)
}

// ids are the kernel's numbers of what a node has pinned.
type ids struct {
	maps     map[ebpf.MapID]string
	programs map[ebpf.ProgramID]string
}

func (x ids) collect(t *testing.T, h *host.Host) {
	t.Helper()
	h.Forget()
	names, err := h.BPFNames(host.BPFMapFolder)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		m, err := ebpf.LoadPinnedMap(h.BPFPath(host.BPFMapFolder, name), nil)
		if err != nil {
			t.Fatal(err)
		}
		info, err := m.Info()
		if err != nil {
			t.Fatal(err)
		}
		id, _ := info.ID()
		x.maps[id] = name
		m.Close()
	}
	for id, name := range programNames(t, h) {
		x.programs[ebpf.ProgramID(id)] = name
	}
}

// gone waits until the kernel has none of them any more.
func (x ids) gone(t *testing.T) {
	t.Helper()
	look := time.NewTicker(10 * time.Millisecond)
	defer look.Stop()
	late := time.After(patience)
	left := func() (names []string) {
		for id, name := range x.programs {
			if p, err := ebpf.NewProgramFromID(id); !errors.Is(err, fs.ErrNotExist) {
				names = append(names, "program "+name)
				p.Close()
			}
		}
		for id, name := range x.maps {
			if m, err := ebpf.NewMapFromID(id); !errors.Is(err, fs.ErrNotExist) {
				names = append(names, "map "+name)
				m.Close()
			}
		}
		return names
	}
	for names := left(); len(names) > 0; names = left() {
		select {
		case <-late:
			t.Fatalf("the kernel still has %v", names)
		case <-look.C:
		}
	}
}

// TestLeavesOthersAlone changes everything beside somebody else's programs, which stay and run, and after destroy the kernel
// has no map and no program of plumb's.
func TestLeavesOthersAlone(t *testing.T) {
	set, err := probed()
	if err != nil {
		t.Fatal(err)
	}
	if !set.Supports(features.TCX) {
		t.Skip(set.Why(features.TCX)) // filters of somebody else's are with those that attach to clsact
	}
	o := kindtest.Options(t)
	states := []resource.State{
		compileAll(t, streamed("auto")), compileAll(t, streamed("auto", settled, roomy, algorithm("maglev", 251))), compileAll(t, streamed("packet")),
		compileAll(t, streamed("socket", sticky)), compileAll(t, streamed("nftables")), compileAll(t, streamed("auto")),
	}
	if err := converge(t, o, states[0]); err != nil {
		t.Fatal(err)
	}
	tr := &traffic{t: t, h: kindtest.Open(t, o), stop: make(chan struct{})}
	join(t, tr.h)
	tr.serve("one", "10.0.0.10")
	root, index, err := tr.h.Device("", "pl-client")
	if err != nil {
		t.Fatal(err)
	}
	first, firstRuns := counting(t, ebpf.SchedCLS, ebpf.AttachNone, -1)
	last, _ := counting(t, ebpf.SchedCLS, ebpf.AttachNone, -1)
	for p, anchor := range map[*ebpf.Program]link.Anchor{first: link.Head(), last: link.Tail()} {
		if err := root.Do(func() error {
			l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: p, Attach: ebpf.AttachTCXIngress, Anchor: anchor})
			if err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	connects, connectRuns := counting(t, ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect, 1)
	dir, err := os.Open(o.Cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: connects,
		Attach: ebpf.AttachCGroupInet4Connect, Flags: 2 /* BPF_F_ALLOW_MULTI */}); err != nil {
		t.Fatal(err)
	}
	others := func(when string) {
		t.Helper()
		on, err := host.QueryBPF(int(dir.Fd()), ebpf.AttachCGroupInet4Connect, false)
		if err != nil || !slices.Contains(on.Programs, number(t, connects)) {
			t.Errorf("%s: the cgroup has programs %v, %v", when, on, err)
		}
		if err := root.Do(func() error {
			on, err := host.QueryBPF(index, ebpf.AttachTCXIngress, true)
			if err == nil && (on.Programs[0] != number(t, first) || !slices.Contains(on.Programs, number(t, last))) {
				t.Errorf("%s: the device has programs %v", when, on.Programs)
			}
			return err
		}); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		packets, calls := firstRuns(), connectRuns()
		tr.ask(t, "client", "10.0.0.10:8080")
		if firstRuns() == packets || connectRuns() == calls {
			t.Errorf("%s: somebody else's programs don't run", when)
		}
	}
	known := ids{map[ebpf.MapID]string{}, map[ebpf.ProgramID]string{}}
	for i, s := range states {
		if err := converge(t, o, s); err != nil {
			t.Fatal(err)
		}
		known.collect(t, tr.h)
		others("state " + string(rune('0'+i)))
	}
	tr.h.Close()
	destroy(t, o)
	known.gone(t)
	on, err := host.QueryBPF(int(dir.Fd()), ebpf.AttachCGroupInet4Connect, false)
	if err != nil || !slices.Equal(on.Programs, []uint32{number(t, connects)}) {
		t.Errorf("after destroy the cgroup has programs %v, %v", on, err)
	}
}
