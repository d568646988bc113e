package bpf

import (
	"testing"

	"github.com/cilium/ebpf"
)

// TestDrain loads the programs beside those that run, over the same maps, as a change of settings does: the flows that
// there are go on, and no other begins.
func TestDrain(t *testing.T) {
	spec, err := Spec("packet")
	if err != nil {
		t.Fatal(err)
	}
	var drained *ebpf.Collection
	each(t, func(t *testing.T, p *path, f hosts, proto uint8) {
		if drained == nil {
			for name, v := range map[string]uint32{"redirect": 1, "source_check": 1, "drain": 1} {
				if err := spec.Variables[name].Set(v); err != nil {
					t.Fatal(err)
				}
			}
			shared := map[string]*ebpf.Map{}
			for name, m := range common.Maps {
				if name[0] != '.' { // the settings are each collection's own
					shared[name] = m
				}
			}
			for name := range shared {
				spec.Maps[name].MaxEntries = shared[name].MaxEntries()
			}
			drained, err = ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
			if err != nil {
				t.Fatal(err)
			}
		}
		vip, backend := on(f.vip, 95), on(f.backend, 8080)
		old, late := on(f.client, 9500), on(f.client, 9501)
		p.service(vip, proto, Frontend{}, backend)
		before := frame{src: old, dst: vip, proto: proto, flags: syn}
		p.see("from_pod", before, redirect)

		q := &path{drained, t}
		for range 2 {
			if got := q.see("from_pod", frame{src: old, dst: vip, proto: proto, flags: ack}, redirect); got.dst != backend {
				t.Errorf("a known flow goes to %v, not %v", got.dst, backend)
			}
			if got := q.see("from_pod", frame{src: backend, dst: old, proto: proto, flags: ack}, redirect); got.src != vip {
				t.Errorf("a known flow is answered by %v, not %v", got.src, vip)
			}
		}
		q.untouched("from_pod", frame{src: late, dst: vip, proto: proto, flags: syn})
		q.untouched("pod_egress", frame{src: late, dst: vip, proto: proto, flags: syn})
		if _, ok := q.flow(late, vip, proto); ok {
			t.Error("a flow has begun")
		}
	})
	if drained != nil {
		drained.Close()
	}
}
