package bpf

import (
	"net/netip"
	"testing"
)

// Two services of one backend, and one port of a client for both. The second connection doesn't break the first. What asks
// by UDP has mostly forgotten whom it asked before.
func TestTaken(t *testing.T) {
	each(t, func(t *testing.T, p *path, f hosts, proto uint8) {
		client, backend := on(f.client, 7000), on(f.backend, 8080)
		p.service(on(f.vip, 86), proto, Frontend{}, backend)
		p.service(on(f.vip, 87), proto, Frontend{}, backend)
		p.see("from_pod", frame{src: client, dst: on(f.vip, 86), proto: proto, flags: syn}, redirect)
		answered := func(by netip.AddrPort) {
			t.Helper()
			if got := p.see("from_pod", frame{src: backend, dst: client, proto: proto, flags: syn | ack}, redirect); got.src != by {
				t.Errorf("the answer comes from %v", got.src)
			}
		}
		if proto == TCP {
			p.see("from_pod", frame{src: client, dst: on(f.vip, 87), proto: proto, flags: syn}, shot)
			answered(on(f.vip, 86))
			return
		}
		for range 3 {
			for _, vip := range []netip.AddrPort{on(f.vip, 87), on(f.vip, 86)} {
				p.see("from_pod", frame{src: client, dst: vip, proto: proto}, redirect)
				answered(vip)
			}
		}
	})
}

// directWays are the ways of a client's packets, of their answers and refusals: past the stack, through it, on an uplink.
func directWays(f hosts) []directWay {
	return []directWay{
		{"straight", "from_pod", "from_pod", "to_pod", f.client, f.backend, redirect},
		{"through the stack", "from_pod", "to_pod", "to_pod", f.client, f.outside, pass},
		{"child", "pod_egress", "pod_ingress", "pod_ingress", f.bridged, f.bridged2, pass},
	}
}

type directWay struct {
	name, there, back, refused string
	client, backend            netip.Addr
	led                        uint32
}

// A client that connects to the backend itself, by a port that it had for the service.
func TestDirectAfterwards(t *testing.T) {
	port := uint16(7100)
	each(t, func(t *testing.T, p *path, f hosts, proto uint8) {
		for _, w := range directWays(f) {
			for _, seen := range []bool{true, false} {
				if !seen && proto == UDP {
					continue // nothing tells such an answer from one to the service
				}
				port++
				client, vip, backend := on(w.client, port), on(f.vip, port), on(w.backend, 8080)
				p.service(vip, proto, Frontend{}, backend)
				p.see(w.there, frame{src: client, dst: vip, proto: proto, flags: syn}, w.led)
				p.see(w.there, frame{src: client, dst: vip, proto: proto, flags: fin | ack}, w.led)
				p.see(w.back, frame{src: backend, dst: client, proto: proto, flags: fin | ack}, w.led)
				if seen { // not where a pod has a second device
					p.see(w.there, frame{src: client, dst: backend, proto: proto, flags: syn}, w.led)
				}
				for _, flags := range []uint8{syn | ack, ack} {
					if got := p.see(w.back, frame{src: backend, dst: client, proto: proto, flags: flags}, w.led); got.src != backend {
						t.Errorf("%s, seen %v: the answer comes from %v", w.name, seen, got.src)
					}
				}
			}
		}
	})
}

// A client that connects to the backend itself, by a port that it has for the service. The backend has one connection for
// both.
func TestDirectMeanwhile(t *testing.T) {
	port := uint16(7150)
	each(t, func(t *testing.T, p *path, f hosts, proto uint8) {
		if proto == UDP {
			return // a client that asks somebody else by UDP has mostly forgotten whom it asked before
		}
		for _, w := range directWays(f) {
			port++
			client, vip, backend := on(w.client, port), on(f.vip, port), on(w.backend, 8080)
			p.service(vip, proto, Frontend{}, backend)
			p.see(w.there, frame{src: client, dst: vip, proto: proto, flags: syn}, w.led)
			answered := func(flags uint8, by netip.AddrPort) {
				t.Helper()
				if got := p.see(w.back, frame{src: backend, dst: client, proto: proto, flags: flags}, w.led); got.src != by {
					t.Errorf("%s: the answer comes from %v", w.name, got.src)
				}
			}
			answered(syn|ack, vip)
			direct := frame{src: client, dst: backend, proto: proto, flags: syn}
			// The backend has both connections for one, and answers that.
			p.see(w.there, direct, w.led)
			answered(ack, vip)
			before := p.counted("no-room")
			got := p.see(w.there, direct, redirect)
			if got.src != backend || got.dst != client || got.flags != rst|ack || p.counted("no-room") != before+1 {
				t.Errorf("%s: a SYN that comes again becomes %+v", w.name, got)
			}
			p.untouched(w.refused, got) // on its way back to the client
			p.see(w.there, frame{src: client, dst: vip, proto: proto, flags: ack}, w.led)
			answered(ack, vip)
			// Another time it has lost the service's connection.
			p.see(w.there, direct, w.led)
			answered(syn|ack, backend)
			answered(ack, backend)
		}
	})
}

// A port that a client had for a service, then has for another one of the same backend, and asks the first one by again.
func TestTakenOver(t *testing.T) {
	each(t, func(t *testing.T, p *path, f hosts, proto uint8) {
		if proto == UDP {
			return // what takes a port over leaves nothing of the other
		}
		client, backend, second := on(f.client, 7300), on(f.backend, 8080), on(f.other, 8080)
		p.service(on(f.vip, 76), proto, Frontend{}, backend)
		p.service(on(f.vip, 77), proto, Frontend{}, backend)
		for _, vip := range []uint16{76, 77} {
			p.see("from_pod", frame{src: client, dst: on(f.vip, vip), proto: proto, flags: syn}, redirect)
			if vip == 76 {
				p.see("from_pod", frame{src: client, dst: on(f.vip, 76), proto: proto, flags: rst}, redirect)
			}
		}
		p.service(on(f.vip, 76), proto, Frontend{}, second)
		p.age(client, on(f.vip, 76), proto, 1000)
		if got := p.see("from_pod", frame{src: client, dst: on(f.vip, 76), proto: proto, flags: syn}, redirect); got.dst != second {
			t.Errorf("goes to %v", got.dst)
		}
		if got := p.see("from_pod", frame{src: backend, dst: client, proto: proto, flags: syn | ack}, redirect); got.src != on(f.vip, 77) {
			t.Errorf("the other service's answer comes from %v", got.src)
		}
	})
}

// Two pods that each ask the other's service by UDP, always by the port that they answer at.
func TestEachOthersClient(t *testing.T) {
	each(t, func(t *testing.T, p *path, f hosts, proto uint8) {
		if proto == TCP {
			return // a port that listens doesn't connect
		}
		one, two, first, second := on(f.client, 7200), on(f.backend, 7200), on(f.vip, 97), on(f.vip, 98)
		p.service(first, proto, Frontend{}, one)
		p.service(second, proto, Frontend{}, two)
		for range 3 {
			p.see("from_pod", frame{src: one, dst: second, proto: proto}, redirect)
			p.see("from_pod", frame{src: two, dst: first, proto: proto}, redirect)
			if got := p.see("from_pod", frame{src: two, dst: one, proto: proto}, redirect); got.src != second {
				t.Errorf("the answer of the second comes from %v", got.src)
			}
			if got := p.see("from_pod", frame{src: one, dst: two, proto: proto}, redirect); got.src != first {
				t.Errorf("the answer of the first comes from %v", got.src)
			}
		}
	})
}
