package bpf

import (
	"testing"

	"github.com/cilium/ebpf"
)

// BenchmarkPrograms is ns a run of the programs, one after the other with the same packet; the packets lose a hop each.
func BenchmarkPrograms(b *testing.B) {
	for _, object := range []string{"forward", "packet"} {
		p := newPath(b, object, all)
		for _, h := range bothFamilies {
			p.pod(h.client, Veth, 10)
			p.pod(h.backend, Veth, 20)
			p.service(on(h.vip, 80), TCP, Frontend{}, on(h.backend, 8080))
			for _, c := range []struct {
				name, program string
				in            frame
			}{
				{"direct", "from_pod", frame{src: on(h.client, 1000), dst: on(h.backend, 8080), proto: TCP, flags: ack}},
				{"service", "from_pod", frame{src: on(h.client, 1000), dst: on(h.vip, 80), proto: TCP, flags: ack}},
				{"answer", "from_pod", frame{src: on(h.backend, 8080), dst: on(h.client, 1000), proto: TCP, flags: ack}},
				{"outside", "from_pod", frame{src: on(h.client, 1000), dst: on(h.outside, 80), proto: TCP, flags: ack}},
				{"direct", "pod_egress", frame{src: on(h.client, 1001), dst: on(h.backend, 8080), proto: TCP, flags: ack}},
				{"direct", "to_pod", frame{src: on(h.outside, 1001), dst: on(h.backend, 8080), proto: TCP, flags: ack}},
			} {
				prog := p.Programs[c.program]
				if prog == nil {
					continue
				}
				b.Run(object+" "+c.program+" "+c.name+" "+h.name, func(b *testing.B) {
					c.in.hops = 255
					in := c.in.bytes()
					for left := b.N; left > 0; left -= 200 {
						if _, err := prog.Run(&ebpf.RunOptions{Data: in, Repeat: 200}); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}
