package bpf

import (
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"plumb.internal/plumb/internal/kindtest"
)

// What comes passes as it is, and is counted; without bpf_xdp_get_buff_len too.
func TestXDPCounts(t *testing.T) {
	kindtest.NeedRoot(t)
	for name, change := range map[string]func(*ebpf.ProgramSpec){
		"as this kernel has it": func(*ebpf.ProgramSpec) {},
		"before 5.18": func(p *ebpf.ProgramSpec) {
			dropCalls(p, asm.FnXdpGetBuffLen)
			p.Flags &^= hasFrags
		},
	} {
		t.Run(name, func(t *testing.T) {
			spec, err := Spec("xdp")
			if err != nil {
				t.Fatal(err)
			}
			for base := range spec.Maps {
				if base != "counters" {
					delete(spec.Maps, base)
				}
			}
			change(spec.Programs["uplink_xdp"])
			if err := fit(spec); err != nil {
				t.Fatal(err)
			}
			c := collection(t, spec)
			defer c.Close()
			frame := make([]byte, 100)
			const times = 7
			for range times {
				verdict, out, err := c.Programs["uplink_xdp"].Test(frame)
				if err != nil {
					t.Fatal(err)
				}
				if verdict != 2 || len(out) != len(frame) { // XDP_PASS
					t.Fatalf("verdict %d, %d bytes", verdict, len(out))
				}
			}
			var per []Counted
			if err := c.Maps["counters"].Lookup(uint32(slices.Index(Counters[:], "received")), &per); err != nil {
				t.Fatal(err)
			}
			var sum Counted
			for _, n := range per {
				sum.Packets += n.Packets
				sum.Bytes += n.Bytes
			}
			if sum != (Counted{times, times * 100}) {
				t.Errorf("counted %+v", sum)
			}
		})
	}
}
