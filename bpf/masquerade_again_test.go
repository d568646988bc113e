package bpf

import (
	"net/netip"
	"testing"
)

// A pod that begins anew after its flow is over gives the old port of the node's back; and what somebody else takes
// over of a flow isn't what its pod has begun since.
func TestMasqueradeBegunAnew(t *testing.T) {
	masqueraded(t, func(t *testing.T, p *path, h hosts, proto uint8, far netip.AddrPort) {
		if proto == ICMP {
			return
		}
		pod := on(h.client, 40000)
		first := p.see("uplink_egress", request(proto, pod, far), pass)
		p.age(pod, far, proto, 7*3600)
		p.age(far, first.src, proto, 7*3600)
		second := p.see("uplink_egress", request(proto, pod, far), pass)
		if _, ok := p.flow(far, first.src, proto); ok && first.src != second.src {
			t.Error("what answers to the flow that is over is still there")
		}
	})
}

// What is left of a flow goes to whoever needs its port, and doesn't take along what its pod has begun since.
func TestMasqueradeTakenOver(t *testing.T) {
	p := newPath(t, "packet", masquerading("masquerade"))
	h, far := bothFamilies[0], faraway[false]
	p.pod(h.client, Veth, 10)
	p.pod(h.bridged, Bridge, 30)
	pod, other := on(h.client, 40000), on(h.bridged, 40000)
	live := p.see("uplink_egress", request(TCP, pod, far), pass)
	// Some of the ports that a flow tries are free: left over are enough for one to be taken over soon.
	for port := uint16(1024); port < 1024+2000; port++ {
		if port != live.src.Port() {
			p.put("flows", flowKey(far, on(node4, port), TCP),
				Flow{Addr: AddressOf(pod.Addr()), Port: PortOf(pod.Port()), Kind: FlowUnmasquerade, Seen: seconds(t) - 1000})
		}
	}
	for i := range uint16(300) {
		p.see("uplink_egress", request(TCP, on(other.Addr(), 40000+i), far), pass)
	}
	taken := 0
	for port := uint16(1024); port < 1024+2000; port++ {
		if f, ok := p.flow(far, on(node4, port), TCP); ok && f.Addr == AddressOf(other.Addr()) {
			taken++
		}
	}
	if taken == 0 {
		t.Fatal("no port was taken over")
	}
	if f, ok := p.flow(pod, far, TCP); !ok || f.Port != PortOf(live.src.Port()) {
		t.Errorf("of %d ports taken over the living flow is %+v, there %v", taken, f, ok)
	}
}

// A lost entry for what a pod sends comes back by what answers, or the pod would get another port.
func TestMasqueradeForwardEntryLost(t *testing.T) {
	masqueraded(t, func(t *testing.T, p *path, h hosts, proto uint8, far netip.AddrPort) {
		in := request(proto, on(h.client, 40000), far)
		out := p.see("uplink_egress", in, pass)
		sent, answers := flowKey(in.src, far, proto), flowKey(far, out.src, proto)
		if proto == ICMP {
			sent, answers = flowKey(in.src, on(far.Addr(), 40000), in.wire()), flowKey(on(far.Addr(), out.src.Port()), out.src, in.wire())
		}
		var was, now Flow
		if err := p.Maps["flows"].Lookup(sent, &was); err != nil {
			t.Fatal(err)
		}
		if err := p.Maps["flows"].Delete(sent); err != nil {
			t.Fatal(err)
		}
		p.see("uplink_ingress", reply(out), pass)
		if err := p.Maps["flows"].Lookup(sent, &now); err != nil || now.Kind != was.Kind || now.Addr != was.Addr || now.Port != was.Port {
			t.Fatalf("the entry for what the pod sends was %+v, and is %+v: %v", was, now, err)
		}
		if proto == TCP {
			in.flags = ack
		}
		if next := p.see("uplink_egress", in, pass); next.src != out.src {
			t.Errorf("it leaves as %v, before as %v", next.src, out.src)
		}
		// The pod has begun anew by another port: what comes to the old one says nothing of that.
		now.Port = PortOf(out.src.Port() ^ 1)
		p.put("flows", sent, now)
		if err := p.Maps["flows"].Lookup(answers, &was); err != nil {
			t.Fatal(err)
		}
		was.Seen, was.State = was.Seen-1, 0
		p.put("flows", answers, was)
		late := reply(out)
		if proto == TCP {
			late.flags = rst
		}
		p.see("uplink_ingress", late, pass)
		var kept Flow
		if err := p.Maps["flows"].Lookup(sent, &kept); err != nil || kept.Port != now.Port || kept.State&FlowReset != 0 {
			t.Errorf("the newer flow becomes %+v: %v", kept, err)
		}
		if err := p.Maps["flows"].Lookup(answers, &was); err == nil {
			t.Error("the older one's entry is still there")
		}
	})
}

// A reset that nobody took, as one out of the window, doesn't end a flow.
func TestMasqueradedReset(t *testing.T) {
	masqueraded(t, func(t *testing.T, p *path, h hosts, proto uint8, far netip.AddrPort) {
		if proto != TCP {
			return
		}
		pod := on(h.client, 40000)
		out := p.see("uplink_egress", request(TCP, pod, far), pass)
		to := frame{src: pod, dst: far, proto: TCP, flags: ack, payload: "x"}
		from := frame{src: far, dst: out.src, proto: TCP, flags: ack, payload: "y"}
		p.see("uplink_ingress", from, pass)
		for _, outward := range []bool{true, false} {
			stray := from
			stray.flags = rst
			p.see("uplink_ingress", stray, pass)
			expect := func(reset bool) {
				t.Helper()
				f, _ := p.flow(pod, far, TCP)
				back, _ := p.flow(far, out.src, TCP)
				if f.State&FlowReset != 0 != reset || back.State&FlowReset != 0 != reset || back.State&FlowEstablished == 0 {
					t.Errorf("the states are %b and %b", f.State, back.State)
				}
			}
			expect(true)
			if outward {
				p.see("uplink_egress", to, pass)
			} else {
				p.see("uplink_ingress", from, pass)
			}
			expect(false)
			p.age(pod, far, TCP, 60)
			p.age(far, out.src, TCP, 60)
			if next := p.see("uplink_egress", to, pass); next.src != out.src {
				t.Errorf("after a minute it leaves as %v", next.src)
			}
		}
	})
}

// What an uplink hears of others' packets, and who pings the node by an id that a pod's ping has, is left alone.
func TestMasqueradeForOthers(t *testing.T) {
	masqueraded(t, func(t *testing.T, p *path, h hosts, proto uint8, far netip.AddrPort) {
		in := request(proto, on(h.client, 40000), far)
		out := p.see("uplink_egress", in, pass)
		overheard := reply(out)
		overheard.dmac = [6]byte{2, 0, 0, 0, 9, 9}
		p.untouched("uplink_ingress", overheard)
		if proto == ICMP {
			asks := reply(out)
			asks.icmp = in.icmp
			p.untouched("uplink_ingress", asks)
			answers := in
			answers.icmp = reply(in).icmp
			p.untouched("uplink_egress", answers)
		}
		if got := p.see("uplink_ingress", reply(out), pass); got.dst.Addr() != h.client {
			t.Errorf("the answer goes to %v", got.dst)
		}
	})
}

// Who isn't masqueraded to is answered by the pod's own address in any case: there is nothing to remember.
func TestAskedFromExcluded(t *testing.T) {
	masqueraded(t, func(t *testing.T, p *path, h hosts, proto uint8, far netip.AddrPort) {
		p.put("excluded", PrefixOf(netip.PrefixFrom(far.Addr(), far.Addr().BitLen())), uint32(1))
		asked := request(proto, far, on(h.client, 5353))
		p.untouched("uplink_ingress", asked)
		for _, base := range []string{"flows", "asked"} {
			if n := p.entries(base); n != 0 {
				t.Errorf("%s has %d entries", base, n)
			}
		}
		p.untouched("uplink_egress", reply(asked))
	})
}

// Whoever asks from outside, and how often, pushes out no flow: only others who ask.
func TestAskersLeaveFlowsAlone(t *testing.T) {
	masqueraded(t, func(t *testing.T, p *path, h hosts, proto uint8, far netip.AddrPort) {
		if proto != UDP {
			return // nobody is remembered
		}
		const flows = 500
		first := make([]frame, flows)
		for i := range first {
			first[i] = p.see("uplink_egress", request(UDP, on(h.client, uint16(33000+i)), far), pass)
		}
		n := p.entries("flows")
		room := int(p.Maps["asked"].MaxEntries())
		last := far
		for i := range 2 * room {
			last = on(far.Addr(), uint16(1024+i))
			p.untouched("uplink_ingress", request(UDP, last, on(h.bridged, 5353)))
		}
		p.untouched("uplink_egress", reply(request(UDP, last, on(h.bridged, 5353))))
		if got := p.entries("flows"); got != n {
			t.Errorf("flows had %d entries, and has %d", n, got)
		}
		if got := p.entries("asked"); got == 0 || got > room {
			t.Errorf("asked has %d entries, and room for %d", got, room)
		}
		for i := range first {
			if again := p.see("uplink_egress", request(UDP, on(h.client, uint16(33000+i)), far), pass); again.src != first[i].src {
				t.Fatalf("flow %d left from %v, and leaves from %v", i, first[i].src, again.src)
			}
		}
	})
}

// A pod that asks somebody outside, and is asked from there meanwhile by its own address, keeps the flow that it has.
func TestAskedByWhoIsAsked(t *testing.T) {
	masqueraded(t, func(t *testing.T, p *path, h hosts, proto uint8, far netip.AddrPort) {
		if proto != UDP {
			return // nobody is remembered
		}
		pod := on(h.client, 5353)
		before := p.see("uplink_egress", request(UDP, pod, far), pass)
		p.untouched("uplink_ingress", request(UDP, far, pod))
		if after := p.see("uplink_egress", request(UDP, pod, far), pass); after.src != before.src {
			t.Errorf("a flow had %v, and has %v", before.src, after.src)
		}
		p.age(pod, far, UDP, 1000)
		p.untouched("uplink_egress", request(UDP, pod, far))
	})
}
