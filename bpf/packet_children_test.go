package bpf

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Clients on an uplink: their own device translates, and neighbours get what is for them without the gateway.
func TestChildren(t *testing.T) {
	gateway := [6]byte{2, 1, 1, 1, 1, 1}
	port := uint16(100)
	each(t, func(t *testing.T, p *path, h hosts, proto uint8) {
		for _, c := range []struct {
			name            string
			client, backend uint8
			dmac            [6]byte
		}{
			{"macvlan to macvlan", Macvlan, Macvlan, [6]byte{2, 0, 0, 0, 1, 51}},
			{"macvlan to veth", Macvlan, Veth, gateway},
			{"ipvlan-l2 to ipvlan-l2", IPvlanL2, IPvlanL2, gateway},
			{"ipvlan-l3 to ipvlan-l3", IPvlanL3, IPvlanL3, gateway},
			{"ipvlan-l2 to bridge", IPvlanL2, Bridge, gateway},
		} {
			port++
			client, vip, backend := on(h.bridged, port), on(h.vip, port), on(h.bridged2, 8080)
			p.pod(client.Addr(), c.client, 50)
			p.pod(backend.Addr(), c.backend, 51)
			p.service(vip, proto, Frontend{}, backend)
			got := p.see("pod_egress", frame{src: client, dst: vip, proto: proto, flags: syn, dmac: gateway}, pass)
			if got.src != client || got.dst != backend || got.dmac != c.dmac || got.hops != 64 {
				t.Errorf("%s: %+v", c.name, got)
			}
			// A segment of a connection that nobody knows isn't looked at, that of one that is known is.
			p.see("pod_egress", frame{src: client, dst: vip, proto: proto, flags: ack, dmac: gateway}, pass)
			answer := frame{src: backend, dst: client, proto: proto, flags: syn | ack}
			p.untouched("pod_egress", answer) // on the backend's side
			if got = p.see("pod_ingress", answer, pass); got.src != vip || got.dst != client {
				t.Errorf("%s: answer %v", c.name, got)
			}
		}
	})
}

// A datagram in fragments goes where its first one goes, and so does its answer.
func TestFragmentsReturn(t *testing.T) {
	each(t, func(t *testing.T, p *path, h hosts, proto uint8) {
		if proto != UDP {
			t.Skip("nobody sends TCP in fragments")
		}
		client, vip, backend := on(h.client, 9100), on(h.vip, 91), on(h.backend, 8080)
		p.service(vip, proto, Frontend{}, backend)
		payload := fmt.Sprintf("%0200d", 1)
		in := frame{src: client, dst: vip, proto: proto, payload: payload, id: 7}
		check := func(program string, in, want frame, ret uint32) {
			t.Helper()
			in.more = true
			_, out := p.run(program, in.bytes(), skb{})
			first := readFrame(t, out)
			expected := want.transport()
			n := 8 + len(first.payload)
			if first.src != want.src || first.dst != want.dst || string(out[len(out)-n:]) != string(expected[:n]) {
				t.Errorf("%s: first fragment %v: %x, not %x", program, first, out[len(out)-n:], expected[:n])
			}
			in.more, in.offset = false, n
			got, out := p.run(program, in.bytes(), skb{})
			later := readFrame(t, out)
			if got != ret || later.src.Addr() != want.src.Addr() || later.dst.Addr() != want.dst.Addr() ||
				later.payload != string(expected[n:]) {
				t.Errorf("%s: later fragment %d %v", program, int32(got), later)
			}
		}
		want := in
		want.dst = backend
		check("from_pod", in, want, redirect)
		answer := in
		answer.src, answer.dst = backend, client
		want.src, want.dst = vip, client
		check("to_pod", answer, want, pass)
		answer.id++
		check("from_pod", answer, want, redirect)
		// Nothing is known of the first one.
		p.untouched("from_pod", frame{src: client, dst: vip, proto: proto, payload: payload, id: 99, offset: 104})
	})
}

// The sum over a packet that a device has made stays right.
func TestChecksumComplete(t *testing.T) {
	const complete = 4 // BPF_F_TEST_SKB_CHECKSUM_COMPLETE
	each(t, func(t *testing.T, p *path, h hosts, proto uint8) {
		client, vip, backend := on(h.client, 9200), on(h.vip, 92), on(h.outside, 8080)
		p.service(vip, proto, Frontend{}, backend)
		p.see("from_pod", frame{src: client, dst: vip, proto: proto, flags: syn}, pass)
		for program, f := range map[string]frame{
			"from_pod": {src: client, dst: vip, proto: proto, flags: ack, payload: "payload"},
			"to_pod":   {src: backend, dst: client, proto: proto, flags: syn | ack, payload: "payload"},
		} {
			in := f.bytes()
			_, err := p.Programs[program].Run(&ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+512), Flags: complete})
			if errors.Is(err, unix.EINVAL) {
				t.Skip("this kernel can't test it")
			}
			if err != nil {
				t.Errorf("%s: %v", program, err)
			}
		}
	})
}

// Every algorithm leads to backends of the service, and Maglev to the one in the table.
func TestMaglev(t *testing.T) {
	each(t, func(t *testing.T, p *path, h hosts, proto uint8) {
		vip := on(h.vip, 93)
		for class, size := range MaglevClasses {
			value := make([]byte, p.Maps[fmt.Sprintf("maglev_%ds", size)].ValueSize())
			for i := range size {
				value[16+2*i] = 1 // the second backend alone
			}
			p.put(fmt.Sprintf("maglev_%ds", size), uint32(0), value)
			p.service(vip, proto, Frontend{Algorithm: Maglev, Class: uint8(class), Size: uint32(size)}, on(h.backend, 8080), on(h.backend, 8081))
			for i := range uint16(20) {
				client := on(h.client, 20000+uint16(class)*100+i)
				if got := p.see("from_pod", frame{src: client, dst: vip, proto: proto, flags: syn}, redirect); got.dst.Port() != 8081 {
					t.Errorf("class %d: to %v", class, got.dst)
				}
			}
		}
	})
}
