package bpfmap_test

import (
	"testing"
	"time"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource/bpfmap"
)

// Without a program that sweeps, the end of an apply forgets the flows that are over, and no others, and counts no write.
func TestFinish(t *testing.T) {
	h := kindtest.Root(t)
	kindtest.BPFFS(t, h)
	if err := (bpfmap.Ops{}).Finish(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	for _, base := range []string{"flows", "frontends", "affinities"} {
		if err := (bpfmap.Ops{}).Create(t.Context(), h, bpfmap.Of(base, 16, "")); err != nil {
			t.Fatal(err)
		}
	}
	now, err := bpf.SinceBoot()
	if err != nil {
		t.Fatal(err)
	}
	flows, err := h.BPFMaps("flows")
	if err != nil {
		t.Fatal(err)
	}
	old, young := bpf.FlowKey{Proto: bpf.UDP, Sport: bpf.PortOf(1)}, bpf.FlowKey{Proto: bpf.UDP, Sport: bpf.PortOf(2)}
	seen := uint32(now / time.Second)
	for k, f := range map[bpf.FlowKey]bpf.Flow{old: {Kind: bpf.FlowForward, Seen: seen - 1000}, young: {Kind: bpf.FlowForward, Seen: seen}} {
		if err := flows[0].Put(k, f); err != nil {
			t.Fatal(err)
		}
	}
	n := h.Writes()
	if err := (bpfmap.Ops{}).Finish(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	if h.Writes() != n {
		t.Errorf("%d writes", h.Writes()-n)
	}
	var f bpf.Flow
	if err := flows[0].Lookup(old, &f); err == nil {
		t.Error("the flow that is over is left")
	}
	if err := flows[0].Lookup(young, &f); err != nil {
		t.Errorf("the other flow: %v", err)
	}
}
