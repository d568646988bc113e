package bpf

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
)

var all = map[string]uint32{"redirect": 1, "source_check": 1}

// hosts are those of a test, in one IP version.
type hosts struct {
	name                            string
	client, backend, other, outside netip.Addr
	bridged, bridged2               netip.Addr
	vip                             netip.Addr
}

func addrs(format string, v6 bool) hosts {
	a := func(n string) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(format, n)) }
	f := hosts{client: a("10"), backend: a("20"), other: a("21"), outside: a("99"), bridged: a("30"), bridged2: a("31")}
	if v6 {
		f.name, f.vip = "IPv6", netip.MustParseAddr("fd00:96::1")
	} else {
		f.name, f.vip = "IPv4", netip.MustParseAddr("10.96.0.1")
	}
	return f
}

var bothFamilies = []hosts{addrs("10.0.0.%s", false), addrs("fd00:10::%s", true)}

func on(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

// common are the programs of all tests that use each: to load them takes long on some machines.
var common *ebpf.Collection

// each runs a test for TCP and UDP, IPv4 and IPv6, with pods and nothing else in the maps.
func each(t *testing.T, test func(t *testing.T, p *path, h hosts, proto uint8)) {
	if common == nil {
		common = load(t, "packet", all)
	}
	p := &path{common, t}
	p.clear()
	for _, h := range bothFamilies {
		for name, proto := range map[string]uint8{"TCP": TCP, "UDP": UDP} {
			t.Run(h.name+" "+name, func(t *testing.T) {
				q := &path{common, t}
				q.pod(h.client, Veth, 10)
				q.pod(h.backend, Veth, 20)
				q.pod(h.other, Netkit, 21)
				q.pod(h.bridged, Bridge, 30)
				q.pod(h.bridged2, Bridge, 31)
				test(t, q, h, proto)
			})
		}
	}
}

func TestRoundTrip(t *testing.T) {
	variants := map[string]frame{
		"":               {},
		" options":       {options: 12},
		" extensions":    {extensions: 2},
		" no checksum":   {noSum: true},
		" padded":        {afterwards: 10},
		" empty":         {payload: "-"},
		" long":          {payload: fmt.Sprintf("%01000d", 7)},
		" odd":           {payload: "odd"},
		" last but one ": {hops: 2},
	}
	each(t, func(t *testing.T, p *path, f hosts, proto uint8) {
		port := uint16(1000)
		for name, v := range variants {
			port++
			if v.noSum && (proto != UDP || f.vip.Is6()) || v.options > 0 && f.vip.Is6() || v.extensions > 0 && f.vip.Is4() {
				continue
			}
			client, vip, backend := on(f.client, port), on(f.vip, 80), on(f.backend, 8080)
			p.service(vip, proto, Frontend{}, backend)
			in := v
			in.src, in.dst, in.proto, in.flags = client, vip, proto, syn
			if in.payload == "" {
				in.payload = "GET /"
			}
			want := in
			want.dst, want.hops, want.afterwards = backend, 63, 0
			if in.hops > 0 {
				want.hops = in.hops - 1
			}
			if proto == UDP {
				want.flags = 0
			}
			want.dmac, want.smac = [6]byte{2, 0, 0, 0, 1, 20}, [6]byte{2, 0, 0, 0, 2, 20}
			for range 2 { // the second packet finds the flow
				if got := p.see("from_pod", in, redirect); got != want {
					t.Errorf("%s: from the client:\n%+v, not\n%+v", name, got, want)
				}
			}
			in.src, in.dst, in.flags = backend, client, syn|ack
			if proto == UDP {
				in.flags = 0
			}
			want.src, want.dst, want.flags = vip, client, in.flags
			want.dmac, want.smac = [6]byte{2, 0, 0, 0, 1, 10}, [6]byte{2, 0, 0, 0, 2, 10}
			if got := p.see("from_pod", in, redirect); got != want {
				t.Errorf("%s: answer:\n%+v, not\n%+v", name, got, want)
			}
			want.dmac, want.smac, want.hops = [6]byte{}, [6]byte{}, want.hops+1
			for _, program := range []string{"to_pod", "pod_ingress"} {
				if got := p.see(program, in, pass); got != want {
					t.Errorf("%s: answer by %s:\n%+v, not\n%+v", name, program, got, want)
				}
			}
			// What has been translated is left alone from then on.
			want.afterwards = 0
			p.untouched("to_pod", want)
			p.untouched("pod_ingress", want)
		}
	})
}

// What is for a port or an address that no service has passes, and so do answers that nobody asked for.
func TestMiss(t *testing.T) {
	each(t, func(t *testing.T, p *path, f hosts, proto uint8) {
		p.service(on(f.vip, 80), proto, Frontend{}, on(f.backend, 8080))
		for _, program := range []string{"from_pod", "pod_egress", "to_pod", "pod_ingress"} {
			p.untouched(program, frame{src: on(f.client, 3000), dst: on(f.vip, 81), proto: proto, flags: syn})
			p.untouched(program, frame{src: on(f.client, 3000), dst: on(f.outside, 80), proto: proto, flags: syn})
			p.untouched(program, frame{src: on(f.client, 3000), dst: on(f.vip, 80), proto: 132, payload: "01234567"})
			p.untouched(program, frame{src: on(f.client, 3000), dst: on(f.vip, 80), proto: proto, flags: syn, ethertype: 0x88b5}) // not IP
			p.untouched(program, frame{src: on(f.client, 3000), dst: on(f.vip, 0), proto: ICMP, icmp: 8})
		}
		p.untouched("to_pod", frame{src: on(f.backend, 8080), dst: on(f.client, 3000), proto: proto, flags: ack})
		if proto == TCP { // an RST starts nothing
			p.untouched("from_pod", frame{src: on(f.client, 3000), dst: on(f.vip, 80), proto: proto, flags: rst})
		}
	})
}

func TestNoBackend(t *testing.T) {
	each(t, func(t *testing.T, p *path, f hosts, proto uint8) {
		p.service(on(f.vip, 81), proto, Frontend{})
		for _, program := range []string{"from_pod", "pod_egress"} {
			before := p.counted("no-backend")
			got := p.see(program, frame{src: on(f.client, 3000), dst: on(f.vip, 81), proto: proto, flags: syn}, redirect)
			if got.src.Addr() != f.vip || got.dst.Addr() != f.client {
				t.Errorf("%s answers %v", program, got)
			}
			if proto == TCP && got.flags&rst == 0 || proto == UDP && got.proto != ICMP {
				t.Errorf("%s refuses by %v", program, got)
			}
			if n := p.counted("no-backend") - before; n != 1 {
				t.Errorf("%s counted %d", program, n)
			}
		}
	})
}

func TestHairpin(t *testing.T) {
	each(t, func(t *testing.T, p *path, f hosts, proto uint8) {
		vip, backend := on(f.vip, 82), on(f.client, 8080)
		p.service(vip, proto, Frontend{}, backend)
		for _, way := range []struct{ out, in string }{{"from_pod", "to_pod"}, {"pod_egress", "pod_ingress"}} {
			client := on(f.client, 4000)
			got := p.see(way.out, frame{src: client, dst: vip, proto: proto, flags: syn, dmac: [6]byte{1}, smac: [6]byte{2}}, redirect)
			if got.src != on(f.vip, 4000) || got.dst != backend || got.dmac != [6]byte{2} || got.smac != [6]byte{1} {
				t.Errorf("%s: %v", way.out, got)
			}
			p.untouched(way.in, got)
			got = p.see(way.out, frame{src: backend, dst: on(f.vip, 4000), proto: proto, flags: syn | ack, smac: [6]byte{2}}, redirect)
			if got.src != vip || got.dst != client || got.dmac != [6]byte{2} {
				t.Errorf("%s: answer %v", way.out, got)
			}
			p.untouched(way.in, got)
		}
	})
}

// A flow keeps its backend whatever becomes of the service, and the next one doesn't.
func TestChange(t *testing.T) {
	each(t, func(t *testing.T, p *path, f hosts, proto uint8) {
		client, vip := on(f.client, 5000), on(f.vip, 83)
		to := func(flags uint8) netip.AddrPort {
			t.Helper()
			return p.see("from_pod", frame{src: client, dst: vip, proto: proto, flags: flags}, redirect).dst
		}
		answer := func(from netip.AddrPort, flags uint8) {
			t.Helper()
			if got := p.see("from_pod", frame{src: from, dst: client, proto: proto, flags: flags}, redirect); got.src != vip {
				t.Errorf("answer of %v has source %v", from, got.src)
			}
		}
		expect := func(got, want netip.AddrPort) {
			t.Helper()
			if got != want {
				t.Errorf("goes to %v, not %v", got, want)
			}
		}
		one, two := on(f.backend, 8080), on(f.other, 8081)
		p.service(vip, proto, Frontend{}, one)
		expect(to(syn), one)
		answer(one, syn|ack)
		p.service(vip, proto, Frontend{}, two)
		expect(to(ack), one)
		answer(one, ack)
		if proto == UDP {
			p.age(client, vip, proto, 170)
			expect(to(0), one)
			p.age(client, vip, proto, 200)
			expect(to(0), two)
			answer(two, 0)
			if got := p.see("from_pod", frame{src: one, dst: on(f.bridged, 5000), proto: proto}, redirect); got.src != one {
				t.Errorf("what is no answer comes from %v", got.src)
			}
			return
		}
		p.age(client, vip, proto, 6*3600-5)
		expect(to(ack), one)
		// Closed both ways; the last packets still go there, a new connection doesn't.
		expect(to(fin|ack), one)
		answer(one, fin|ack)
		expect(to(ack), one)
		if s, _ := p.flow(client, vip, proto); s.State != 7 {
			t.Errorf("state %b", s.State)
		}
		expect(to(syn), two)
		answer(two, syn|ack)
		// Torn down.
		answer(two, rst)
		p.service(vip, proto, Frontend{}, one)
		expect(to(ack), two)
		expect(to(syn), one)
		// A SYN that nobody answered, to a backend that is gone meanwhile.
		p.service(vip, proto, Frontend{}, two)
		expect(to(syn), one)
		p.age(client, vip, proto, 3)
		expect(to(syn), two)
		if _, ok := p.flow(one, client, proto); ok {
			t.Error("the answers of the first backend are still expected")
		}
		// Nobody left.
		p.age(client, vip, proto, 70)
		p.service(vip, proto, Frontend{})
		p.see("from_pod", frame{src: client, dst: vip, proto: proto, flags: syn}, redirect)
	})
}

// Where there are more flows than room, entries go. A connection is led on without them: nobody waits for a time-out.
func TestLostEntry(t *testing.T) {
	each(t, func(t *testing.T, p *path, h hosts, proto uint8) {
		client, vip, backend := on(h.client, 5100), on(h.vip, 84), on(h.backend, 8080)
		p.service(vip, proto, Frontend{}, backend)
		to := func(flags uint8) {
			t.Helper()
			if got := p.see("from_pod", frame{src: client, dst: vip, proto: proto, flags: flags}, redirect); got.dst != backend {
				t.Errorf("goes to %v", got.dst)
			}
		}
		lose := func(src, dst netip.AddrPort) {
			t.Helper()
			if err := p.Maps["flows"].Delete(flowKey(src, dst, proto)); err != nil {
				t.Fatal(err)
			}
		}
		to(syn)
		lose(client, vip)
		to(ack)
		lose(backend, client)
		p.age(client, vip, proto, 2)
		to(ack)
		if got, ok := p.flow(backend, client, proto); !ok || got.Addr != AddressOf(h.vip) || got.Kind != FlowReverse {
			t.Errorf("the answers' entry is %v %+v", ok, got)
		}
	})
}

func TestAffinity(t *testing.T) {
	each(t, func(t *testing.T, p *path, f hosts, proto uint8) {
		vip := on(f.vip, 85)
		var backends []netip.AddrPort
		for i := range uint16(16) {
			backends = append(backends, on(f.backend, 9000+i))
		}
		p.service(vip, proto, Frontend{Affinity: 100}, backends...)
		seen := map[netip.AddrPort]bool{}
		for i := range uint16(50) {
			seen[p.see("from_pod", frame{src: on(f.client, 6000+i), dst: vip, proto: proto, flags: syn}, redirect).dst] = true
		}
		if len(seen) != 1 {
			t.Errorf("a client with affinity went to %v", seen)
		}
		p.service(vip, proto, Frontend{Algorithm: RoundRobin}, backends...)
		clear(seen)
		for i := range uint16(16) {
			seen[p.see("from_pod", frame{src: on(f.client, 6100+i), dst: vip, proto: proto, flags: syn}, redirect).dst] = true
		}
		if len(seen) != 16 {
			t.Errorf("in turns, %d of 16 backends were asked", len(seen))
		}
	})
}

// Backends and clients that aren't reached past the stack.
func TestThroughStack(t *testing.T) {
	each(t, func(t *testing.T, p *path, f hosts, proto uint8) {
		vip := on(f.vip, 89)
		p.service(vip, proto, Frontend{}, on(f.outside, 8080))
		got := p.see("from_pod", frame{src: on(f.client, 8000), dst: vip, proto: proto, flags: syn}, pass)
		if got.dst != on(f.outside, 8080) || got.hops != 64 || got.dmac != [6]byte{} {
			t.Errorf("to a backend outside: %v", got)
		}
		// At its last hop, a packet is the stack's to answer.
		p.service(vip, proto, Frontend{}, on(f.backend, 8080))
		got = p.see("from_pod", frame{src: on(f.client, 8001), dst: vip, proto: proto, flags: syn, hops: 1}, pass)
		if got.dst != on(f.backend, 8080) || got.hops != 1 {
			t.Errorf("at its last hop: %v", got)
		}
		p.untouched("from_pod", frame{src: on(f.backend, 8080), dst: on(f.client, 8001), proto: proto, hops: 1})
	})
}

// Pods on a bridge are reached straight too. What is for them already, as neighbours, takes no hop.
func TestBridge(t *testing.T) {
	each(t, func(t *testing.T, p *path, f hosts, proto uint8) {
		client, vip, backend := on(f.bridged, 8000), on(f.vip, 89), on(f.bridged2, 8080)
		mac := func(n byte) [6]byte { return [6]byte{2, 0, 0, 0, 1, n} }
		p.service(vip, proto, Frontend{}, backend)
		got := p.see("from_pod", frame{src: client, dst: vip, proto: proto, flags: syn}, redirect)
		if got.dst != backend || got.hops != 63 || got.dmac != mac(31) {
			t.Errorf("to a service: %+v", got)
		}
		got = p.see("from_pod", frame{src: backend, dst: client, proto: proto, flags: syn | ack, dmac: mac(30), smac: mac(31)}, redirect)
		if got.src != vip || got.hops != 64 || got.dmac != mac(30) || got.smac != mac(31) {
			t.Errorf("the answer: %+v", got)
		}
		neighbour := frame{src: on(f.bridged, 8001), dst: on(f.bridged2, 9000), proto: proto, flags: syn, dmac: mac(31), smac: mac(30)}
		got = p.see("from_pod", neighbour, redirect)
		if got.dst != neighbour.dst || got.hops != 64 || got.dmac != mac(31) || got.smac != mac(30) {
			t.Errorf("to a neighbour: %+v", got)
		}
		neighbour.hops = 1 // a bridge takes none
		if ret, _ := p.run("from_pod", neighbour.bytes(), skb{}); ret != pass {
			t.Errorf("to a neighbour, at the last hop: %d", int32(ret))
		}
	})
}

// Where packets aren't sent straight, a bridge leads to its ports itself.
func TestBridgeWithoutRedirect(t *testing.T) {
	p := newPath(t, "packet", map[string]uint32{"redirect": 0, "source_check": 1})
	for _, f := range bothFamilies {
		p.pod(f.bridged, Bridge, 30)
		p.pod(f.bridged2, Bridge, 31)
		vip := on(f.vip, 89)
		p.service(vip, TCP, Frontend{}, on(f.bridged2, 8080))
		got := p.see("from_pod", frame{src: on(f.bridged, 8000), dst: vip, proto: TCP, flags: syn}, pass)
		if got.dst != on(f.bridged2, 8080) || got.hops != 64 || got.dmac != [6]byte{2, 0, 0, 0, 1, 31} {
			t.Errorf("to a service: %+v", got)
		}
		// The answer is left to the client's side, which the bridge leads it by.
		answer := frame{src: on(f.bridged2, 8080), dst: on(f.bridged, 8000), proto: TCP, flags: syn | ack}
		p.untouched("from_pod", answer)
		if got = p.see("to_pod", answer, pass); got.src != vip {
			t.Errorf("the answer: %+v", got)
		}
	}
}
