package bpfmap_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource/bpfmap"
)

var ops bpfmap.Ops

func root(t *testing.T) *host.Host {
	t.Helper()
	h := kindtest.Root(t)
	kindtest.BPFFS(t, h)
	return h
}

func create(t *testing.T, h *host.Host, ms ...bpfmap.Map) {
	t.Helper()
	for _, m := range ms {
		if err := ops.Create(t.Context(), h, m); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(t *testing.T, h *host.Host, m bpfmap.Map) {
	t.Helper()
	if err := ops.Delete(t.Context(), h, m); err != nil {
		t.Fatal(err)
	}
}

func observe(t *testing.T, h *host.Host) []bpfmap.Map {
	t.Helper()
	owned, foreign, err := ops.Observe(t.Context(), h, nil)
	if err != nil || len(foreign) > 0 {
		t.Fatalf("foreign %v: %v", foreign, err)
	}
	return owned
}

func open(t *testing.T, h *host.Host, m bpfmap.Map) *ebpf.Map {
	t.Helper()
	k, err := ebpf.LoadPinnedMap(h.BPFPath(host.BPFMapFolder, m.ID().Name), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func TestKind(t *testing.T) {
	kindtest.Run(t, kindtest.Kind[bpfmap.Map]{Ops: ops, Setup: func(t *testing.T, h *host.Host) { kindtest.BPFFS(t, h) },
		Samples: []bpfmap.Map{bpfmap.Of("flows", 16, ""), bpfmap.Of("flows", 64, ""), bpfmap.Of("frontends", 16, ""),
			bpfmap.Of("counters", len(bpf.Counters), ""), bpfmap.Of("maglev_2039s", 3, "")}})
}

// flow is an entry of the map of flows that can be told from others.
func flow(i int) (bpf.FlowKey, bpf.Flow) {
	k := bpf.FlowKey{Proto: bpf.TCP, Sport: bpf.PortOf(uint16(i))}
	return k, bpf.Flow{Service: uint64(i), Kind: bpf.FlowForward}
}

func put(t *testing.T, m *ebpf.Map, i int, backend uint64) {
	t.Helper()
	k, v := flow(i)
	v.Backend = backend
	if err := m.Put(k, v); err != nil {
		t.Fatal(err)
	}
}

func backend(t *testing.T, m *ebpf.Map, i int) uint64 {
	t.Helper()
	k, _ := flow(i)
	var v bpf.Flow
	if err := m.Lookup(k, &v); err != nil {
		t.Fatalf("flow %d: %v", i, err)
	}
	if v.Service != uint64(i) {
		t.Errorf("flow %d became %+v", i, v)
	}
	return v.Backend
}

// Flows are all in the larger map when it appears. What programs learn in the old one after that comes over when the old one
// goes, and what they know better in the new one stays.
func TestFlowsMoveToTheLargerMap(t *testing.T) {
	h := root(t)
	const before = 10000 // more than are moved in one call
	old, bigger := bpfmap.Of("flows", 1<<15, ""), bpfmap.Of("flows", 1<<16, "")
	create(t, h, old)
	from := open(t, h, old)
	for i := range before {
		put(t, from, i, 1)
	}
	create(t, h, bigger)
	to := open(t, h, bigger)
	for i := range before {
		if b := backend(t, to, i); b != 1 {
			t.Fatalf("flow %d: backend %d", i, b)
		}
	}
	put(t, from, before, 2) // learnt late, by a program that still has the old map
	put(t, from, 5, 2)
	put(t, to, 5, 3)
	n := h.Writes()
	remove(t, h, old)
	if got := h.Writes() - n; got != 2 {
		t.Errorf("%d writes for one entry that was missing and one pin", got)
	}
	if b := backend(t, to, before); b != 2 {
		t.Errorf("the late flow: backend %d", b)
	}
	if b := backend(t, to, 5); b != 3 {
		t.Errorf("the flow that is known better: backend %d", b)
	}
	if left := observe(t, h); len(left) != 1 || left[0].ID() != bigger.ID() {
		t.Errorf("left: %v", left)
	}
}

// What plumb writes is copied into a map of another size too, and refused by name if it doesn't fit.
func TestConfiguredEntries(t *testing.T) {
	h := root(t)
	old := bpfmap.Of("frontends", 16, "")
	create(t, h, old)
	from := open(t, h, old)
	for i := range 10 {
		if err := from.Put(bpf.FrontendKey{Port: bpf.PortOf(uint16(i))}, bpf.Frontend{Service: uint64(i)}); err != nil {
			t.Fatal(err)
		}
	}
	small := bpfmap.Of("frontends", 4, "")
	err := ops.Create(t.Context(), h, small)
	if err == nil || !strings.Contains(err.Error(), "tuning.maps") {
		t.Errorf("too small a map: %v", err)
	}
	if left := observe(t, h); len(left) != 1 || left[0].ID() != old.ID() {
		t.Errorf("left: %v", left)
	}
	bigger := bpfmap.Of("frontends", 32, "")
	create(t, h, bigger)
	var v bpf.Frontend
	if err := open(t, h, bigger).Lookup(bpf.FrontendKey{Port: bpf.PortOf(9)}, &v); err != nil || v.Service != 9 {
		t.Errorf("%+v: %v", v, err)
	}
}

// Maglev tables keep their element numbers.
func TestTables(t *testing.T) {
	h := root(t)
	old, bigger := bpfmap.Of("maglev_2039s", 3, ""), bpfmap.Of("maglev_2039s", 5, "")
	create(t, h, old)
	from := open(t, h, old)
	table := make([]byte, from.ValueSize())
	binary.LittleEndian.PutUint64(table, 42)
	if err := from.Put(uint32(2), table); err != nil {
		t.Fatal(err)
	}
	create(t, h, bigger)
	got, err := open(t, h, bigger).LookupBytes(uint32(2))
	if err != nil || binary.LittleEndian.Uint64(got) != 42 {
		t.Errorf("%v", err)
	}
}

// A map that isn't what its name says is seen as such, replaced, and never read. One of a version that isn't known is ours
// to delete.
func TestStrangeMaps(t *testing.T) {
	h := root(t)
	if err := h.MakeBPFFolder(host.BPFMapFolder); err != nil {
		t.Fatal(err)
	}
	plant := func(name string, value uint32) {
		k, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 44, ValueSize: value, MaxEntries: 16})
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		if err := k.Pin(h.BPFPath(host.BPFMapFolder, name)); err != nil {
			t.Fatal(err)
		}
	}
	plant("flows.v1.16", 40)
	plant("flows.v99.16", 40)
	plant("pending", 8)
	owned := observe(t, h)
	if len(owned) != 3 {
		t.Fatalf("owned: %+v", owned)
	}
	for _, m := range owned {
		if strange := m.ID() == bpfmap.For("flows", 1, 16); strange != (m.Fault != "") {
			t.Errorf("%s: fault %q", m.ID(), m.Fault)
		}
		fields, inPlace := ops.Diff(m, bpfmap.Of("flows", 16, ""))
		if m.Fault != "" && (len(fields) != 1 || inPlace) {
			t.Errorf("%s: %+v, in place %v", m.ID(), fields, inPlace)
		}
	}
	create(t, h, bpfmap.Of("flows", 32, "")) // beside them: nothing can be copied
	for _, m := range owned {
		remove(t, h, m)
	}
	if left := observe(t, h); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// Where no BPF file system is, nothing is begun.
func TestNoBPFFS(t *testing.T) {
	h := kindtest.Root(t)
	h.BPFFS = filepath.Join(t.TempDir(), "plumb", kindtest.Node)
	want := bpfmap.Of("flows", 16, "")
	_, _, err := ops.Observe(t.Context(), h, []bpfmap.Map{want})
	if err == nil || !strings.Contains(err.Error(), "mount -t bpf") {
		t.Errorf("observe: %v", err)
	}
	if err := ops.Create(t.Context(), h, want); err == nil {
		t.Error("create succeeds")
	}
	if _, err := os.Lstat(filepath.Dir(h.BPFFS)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a folder was made: %v", err)
	}
	if owned := observe(t, h); len(owned) > 0 {
		t.Errorf("owned: %v", owned)
	}
}

// Pins are for root alone, and nothing is left of the folders.
func TestFolders(t *testing.T) {
	h := root(t)
	m := bpfmap.Of("flows", 16, "")
	create(t, h, m)
	st, err := os.Stat(h.BPFFS)
	if err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("%v: %v", st.Mode(), err)
	}
	if err := h.RemoveBPFFolders(); err == nil {
		t.Error("a folder with a pin was removed")
	}
	remove(t, h, m)
	for range 2 {
		if err := h.RemoveBPFFolders(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(h.BPFFS); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
}

// The estimate is of the order that the kernel says itself, where it says it.
func TestBytes(t *testing.T) {
	h := root(t)
	for _, m := range []bpfmap.Map{bpfmap.Of("flows", 1<<14, ""), bpfmap.Of("maglev_4093s", 100, "")} {
		create(t, h, m)
		info, err := open(t, h, m).Info()
		if err != nil {
			t.Fatal(err)
		}
		told, ok := info.Memlock()
		// Kernels from 5.11 to 6.3 tell of keys and values alone.
		page := uint64(os.Getpagesize())
		bare := (uint64(info.MaxEntries)*uint64((info.KeySize+info.ValueSize+7)/8*8) + page - 1) / page * page
		if ours := bpfmap.Bytes(m.Base, m.Entries); ok && (float64(told) < 0.8*float64(ours) && told != bare || float64(told) > 1.3*float64(ours)) {
			t.Errorf("%s: %d by the kernel, estimated %d", m.ID(), told, ours)
		}
		t.Log(told, bpfmap.Bytes(m.Base, m.Entries))
	}
}
