package bpf

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/internal/memlock"
)

// otherFlows makes a map of flows whose values have a field more, and the others in another order.
func otherFlows(t *testing.T, change func(value *btf.Struct)) *ebpf.Map {
	t.Helper()
	spec, err := mapSpec("flows", 64)
	if err != nil {
		t.Fatal(err)
	}
	was := btf.UnderlyingType(spec.Value).(*btf.Struct)
	value := &btf.Struct{Name: was.Name, Size: was.Size + 8}
	value.Members = append(value.Members, btf.Member{Name: "extra", Type: &btf.Int{Name: "other", Size: 8}})
	for _, m := range was.Members {
		m.Offset += 64
		value.Members = append(value.Members, m)
	}
	if change != nil {
		change(value)
	}
	spec.Name, spec.Value, spec.ValueSize = "other_flows", value, value.Size
	if err := memlock.Lift(); err != nil {
		t.Log(err)
	}
	m, err := ebpf.NewMap(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// TestConvert: what another version has learnt is taken over by the names of its fields, there and back.
func TestConvert(t *testing.T) {
	kindtest.NeedRoot(t)
	flows, err := NewMap("flows", 64)
	if err != nil {
		t.Fatal(err)
	}
	defer flows.Close()
	other := otherFlows(t, nil)
	want := map[FlowKey]Flow{}
	for i := range 20 {
		k := FlowKey{Sport: PortOf(uint16(i)), Dport: PortOf(80), Proto: TCP}
		f := Flow{Addr: Address{1, 2, 15: byte(i)}, Service: 1 << 40, Backend: uint64(i), Seen: 7, Port: PortOf(8080), Kind: FlowReverse, State: 1}
		want[k] = f
		if err := other.Put(k, struct {
			Extra uint64
			Flow
		}{42, f}); err != nil {
			t.Fatal(err)
		}
	}
	newer := FlowKey{Sport: PortOf(3), Dport: PortOf(80), Proto: TCP}
	want[newer] = Flow{Backend: 99}
	if err := flows.Put(newer, want[newer]); err != nil {
		t.Fatal(err)
	}
	if err := Convertible("flows", other); err != nil {
		t.Fatal(err)
	}
	wrote := 0
	if err := Convert(flows, "flows", other, true, func() { wrote++ }); err != nil {
		t.Fatal(err)
	}
	if wrote != 19 {
		t.Errorf("%d entries were written, want 19: one was there", wrote)
	}
	got := map[FlowKey]Flow{}
	if err := Each(flows, func(k FlowKey, f Flow) { got[k] = f }); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Errorf("%d entries, want %d", len(got), len(want))
	}
	for k, f := range want {
		if got[k] != f {
			t.Errorf("%+v is %+v, want %+v", k, got[k], f)
		}
	}
}

// TestConvertForeign: what can't be told apart isn't taken over.
func TestConvertForeign(t *testing.T) {
	kindtest.NeedRoot(t)
	untyped, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.LRUHash, KeySize: 40, ValueSize: 40, MaxEntries: 16})
	if err != nil {
		t.Fatal(err)
	}
	defer untyped.Close()
	for name, m := range map[string]*ebpf.Map{
		"no types": untyped,
		"a field of another size": otherFlows(t, func(s *btf.Struct) {
			s.Members[2].Type = &btf.Int{Name: "short", Size: 4}
		}),
		"another struct": otherFlows(t, func(s *btf.Struct) { s.Name = "stream" }),
	} {
		if err := Convertible("flows", m); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
