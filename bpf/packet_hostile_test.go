package bpf

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"
)

var programs = []string{"from_pod", "to_pod", "pod_egress", "pod_ingress", "uplink_ingress", "uplink_egress", "detour_ingress"}

// Packets that end before their headers do are never translated.
func TestShort(t *testing.T) {
	each(t, func(t *testing.T, p *path, h hosts, proto uint8) {
		vip := on(h.vip, 90)
		p.service(vip, proto, Frontend{}, on(h.backend, 8080))
		for i, f := range []frame{{}, {options: 8, extensions: 1}, {extensions: 6, options: 40}} {
			f.src, f.dst, f.proto, f.flags = on(h.client, 9000), vip, proto, syn
			in := f.bytes()
			for n := 14; n < len(in); n++ {
				for _, program := range programs {
					ret, out := p.run(program, in[:n], skb{})
					if ret == redirect || !bytes.Equal(in[:n], out) {
						t.Errorf("%d: %s says %d of the first %d bytes:\n%x", i, program, int32(ret), n, out)
					}
				}
			}
			p.see("from_pod", f, redirect)
		}
		// No IPv6 header has addresses as the maps have those of IPv4.
		if h.vip.Is4() {
			in := frame{src: at("[::]:9000"), dst: at("[::]:90"), proto: proto, flags: syn}.bytes()
			src, dst := h.client.As16(), h.vip.As16()
			copy(in[14+8:], src[:])
			copy(in[14+24:], dst[:])
			if ret, out := p.run("from_pod", in, skb{}); ret != shot || !bytes.Equal(in, out) {
				t.Errorf("mapped addresses: %d", int32(ret))
			}
		}
		// A length that leaves no room for the header that is there.
		for _, total := range []uint16{1, 7, 19, 27, 39} {
			f := frame{src: on(h.client, 9000), dst: vip, proto: proto, flags: syn, total: total}
			if proto == UDP && (h.vip.Is4() && total > 27 || h.vip.Is6() && total > 7) {
				continue
			}
			if proto == TCP && h.vip.Is6() && total > 19 {
				continue
			}
			in := f.bytes()
			if ret, out := p.run("from_pod", in, skb{}); ret == redirect || !bytes.Equal(in, out) {
				t.Errorf("length %d: %d", total, int32(ret))
			}
		}
	})
}

// Whatever a packet holds, a program neither fails nor answers what it may not, and leaves what it passes well-formed.
func TestHostile(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 1))
	p := newPath(t, "packet", map[string]uint32{"redirect": 1, "source_check": 0})
	var samples [][]byte
	for _, h := range bothFamilies {
		p.pod(h.client, Veth, 10)
		p.pod(h.backend, Veth, 20)
		for _, proto := range []uint8{TCP, UDP} {
			p.service(on(h.vip, 80), proto, Frontend{}, on(h.backend, 8080))
			p.service(on(h.vip, 81), proto, Frontend{}, on(h.client, 8080))
			p.service(on(h.vip, 82), proto, Frontend{})
			for _, port := range []uint16{80, 81, 82} {
				in := frame{src: on(h.client, 1000), dst: on(h.vip, port), proto: proto, flags: syn, payload: "payload", options: 8, extensions: 1}
				plain := in
				plain.options, plain.extensions = 0, 0
				more := plain
				more.more, more.payload = true, fmt.Sprintf("%064d", 1)
				samples = append(samples, in.bytes(), plain.bytes(), more.bytes())
			}
			quoted := frame{src: on(h.client, 1000), dst: on(h.backend, 8080), proto: proto}.bytes()[14:]
			samples = append(samples, frame{src: on(h.backend, 0), dst: on(h.client, 0), proto: ICMP, icmp: 3, code: 3, payload: string(quoted)}.bytes())
			samples = append(samples, frame{src: on(h.backend, 0), dst: on(h.client, 0), proto: ICMP, icmp: 1, code: 4, payload: string(quoted)}.bytes())
		}
	}
	for _, s := range samples {
		for _, program := range programs {
			p.run(program, s, skb{})
		}
	}
	rounds := 20000
	if testing.Short() {
		rounds = 2000
	}
	for range rounds {
		in := bytes.Clone(samples[r.IntN(len(samples))])
		for range 1 + r.IntN(4) {
			in[12+r.IntN(len(in)-12)] = byte(r.Uint32())
		}
		if r.IntN(3) == 0 {
			in = in[:14+r.IntN(len(in)-14)]
		}
		if r.IntN(5) == 0 {
			in = append(in, make([]byte, r.IntN(100))...)
		}
		program := programs[r.IntN(len(programs))]
		ret, out := p.run(program, in, skb{})
		if ret == pass && len(out) != len(in) {
			t.Fatalf("seed %d: %s makes %d bytes of %d:\n%x\n%x", seed, program, len(out), len(in), in, out)
		}
	}
}
