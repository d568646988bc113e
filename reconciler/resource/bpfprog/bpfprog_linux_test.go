package bpfprog_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpfmap"
	"plumb.internal/plumb/reconciler/resource/bpfprog"
)

var ops bpfprog.Ops

// sized lists a map of every base.
func sized(entries int) []resource.ID {
	var ids []resource.ID
	for base, l := range bpf.Layouts {
		n := entries
		switch base {
		case "counters":
			n = len(bpf.Counters)
		case "swept":
			n = 1
		}
		ids = append(ids, bpfmap.For(base, l.Version, n))
	}
	slices.SortFunc(ids, resource.ID.Compare)
	return ids
}

func make2(t *testing.T, h *host.Host) {
	t.Helper()
	kindtest.BPFFS(t, h)
	for _, entries := range []int{16, 32} {
		for _, id := range sized(entries) {
			base, _, n, _ := bpf.ParseMapName(id.Name)
			if entries == 32 && n != 32 {
				continue
			}
			if err := (bpfmap.Ops{}).Create(t.Context(), h, bpfmap.Of(base, n, "")); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func observe(t *testing.T, h *host.Host) []bpfprog.Program {
	t.Helper()
	h.Forget()
	owned, _, err := ops.Observe(t.Context(), h, nil)
	if err != nil {
		t.Fatal(err)
	}
	return owned
}

var on = map[string]uint32{"redirect": 1, "source_check": 1}

func TestKind(t *testing.T) {
	off := map[string]uint32{"redirect": 0, "source_check": 1}
	kindtest.Run(t, kindtest.Kind[bpfprog.Program]{Ops: ops, Setup: make2, Kept: true, Samples: []bpfprog.Program{
		bpfprog.Of("socket_all", "connect4", nil, sized(16), ""), bpfprog.Of("socket_all", "connect4", nil, sized(32), ""),
		bpfprog.Of("forward", "from_pod", on, sized(16), ""), bpfprog.Of("forward", "from_pod", off, sized(16), ""),
	}})
}

// Every program of every object loads with the maps that it is said to use, and is found with just these.
func TestLoadAll(t *testing.T) {
	h := kindtest.Root(t)
	make2(t, h)
	objects := []string{"socket", "socket_all", "packet", "forward"}
	set, err := features.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if set.Supports(features.Timers) {
		objects = append(objects, "sweep")
	}
	for _, object := range objects {
		for _, name := range bpf.Programs(object) {
			settings := on
			if strings.HasPrefix(object, "s") {
				settings = nil
			}
			want := bpfprog.Of(object, name, settings, sized(16), "")
			if err := ops.Create(t.Context(), h, want); err != nil {
				t.Error(err)
				continue
			}
			owned := observe(t, h)
			if len(owned) != 1 || owned[0].ID() != want.ID() || owned[0].Fault != "" || !slices.Equal(owned[0].Maps, want.Maps) {
				t.Errorf("%s %s: wanted %+v, observed %+v", object, name, want, owned)
			}
			if err := ops.Delete(t.Context(), h, want); err != nil {
				t.Error(err)
			}
		}
	}
}

// Somebody has deleted the pin of a map and another map has the name now: the program isn't what its name says until it is
// loaded again.
func TestMapOfAnEarlierLife(t *testing.T) {
	h := kindtest.Root(t)
	make2(t, h)
	want := bpfprog.Of("socket_all", "recvmsg4", nil, sized(16), "")
	if err := ops.Create(t.Context(), h, want); err != nil {
		t.Fatal(err)
	}
	m := bpfmap.Of("sock_reverse", 16, "")
	if err := (bpfmap.Ops{}).Delete(t.Context(), h, m); err != nil {
		t.Fatal(err)
	}
	if err := (bpfmap.Ops{}).Create(t.Context(), h, m); err != nil {
		t.Fatal(err)
	}
	owned := observe(t, h)
	if len(owned) != 1 || !strings.Contains(owned[0].Fault, "sock_reverse") {
		t.Fatalf("owned: %+v", owned)
	}
	if fields, inPlace := ops.Diff(owned[0], want); len(fields) != 1 || !inPlace {
		t.Errorf("%+v, in place %v", fields, inPlace)
	}
	if err := ops.Update(t.Context(), h, owned[0], want); err != nil {
		t.Fatal(err)
	}
	if owned := observe(t, h); len(owned) != 1 || owned[0].Fault != "" || owned[0].ID() != want.ID() {
		t.Errorf("owned: %+v", owned)
	}
}

// A missing map and a setting that there isn't are told by name.
func TestErrors(t *testing.T) {
	h := kindtest.Root(t)
	make2(t, h)
	want := bpfprog.Of("socket_all", "recvmsg4", nil, nil, "")
	if err := ops.Create(t.Context(), h, want); err == nil || !strings.Contains(err.Error(), "sock_reverse is missing") {
		t.Errorf("%v", err)
	}
	want = bpfprog.Of("forward", "from_pod", map[string]uint32{"frobnicate": 1}, sized(16), "")
	if err := ops.Create(t.Context(), h, want); err == nil || !strings.Contains(err.Error(), `no setting "frobnicate"`) {
		t.Errorf("%v", err)
	}
	if owned := observe(t, h); len(owned) > 0 {
		t.Errorf("owned: %+v", owned)
	}
}

// Something else under a program's name is replaced.
func TestStrangePin(t *testing.T) {
	h := kindtest.Root(t)
	make2(t, h)
	want := bpfprog.Of("socket_all", "recvmsg4", nil, sized(16), "")
	if err := h.MakeBPFFolder(host.BPFProgramFolder); err != nil {
		t.Fatal(err)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	path := h.BPFPath(host.BPFProgramFolder, want.ID().Name)
	for _, pin := range []func(string) error{m.Pin, p.Pin} {
		if err := pin(path); err != nil {
			t.Fatal(err)
		}
		h.Forget()
		owned := observe(t, h)
		if len(owned) != 1 || owned[0].Fault == "" {
			t.Fatalf("owned: %+v", owned)
		}
		if err := ops.Update(t.Context(), h, owned[0], want); err != nil {
			t.Fatal(err)
		}
		if owned := observe(t, h); len(owned) != 1 || owned[0].Fault != "" {
			t.Errorf("owned: %+v", owned)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// What a program was loaded with is told by its pin.
func TestSettingsOfAPin(t *testing.T) {
	h := kindtest.Root(t)
	make2(t, h)
	want := bpfprog.Of("forward", "from_pod", map[string]uint32{"source_check": 1, "redirect": 0}, sized(16), "")
	if !strings.HasPrefix(want.ID().Name, "from_pod.source_check.") {
		t.Errorf("it is %s", want.ID())
	}
	if err := ops.Create(t.Context(), h, want); err != nil {
		t.Fatal(err)
	}
	owned := observe(t, h)
	if len(owned) != 1 || owned[0].Base != "from_pod" || owned[0].Settings["source_check"] != 1 || owned[0].Settings["redirect"] != 0 {
		t.Errorf("owned: %+v", owned)
	}
}
