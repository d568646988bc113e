package bpf

import (
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

var (
	node4, node6 = netip.MustParseAddr("192.0.2.77"), netip.MustParseAddr("2001:db8::77")
	faraway      = map[bool]netip.AddrPort{false: at("198.51.100.9:443"), true: at("[2001:db8:9::9]:443")}
)

// masquerading are the settings of a node with both addresses.
func masquerading(how string) map[string]uint32 {
	// Tests can't tell of a packet that it was forwarded, and the source check asks for that.
	s := map[string]uint32{how: 1}
	for k, v := range MasqueradeSettings(node4, node6) {
		s[k] = v
	}
	return s
}

func nodeOf(h hosts) netip.Addr {
	if h.vip.Is6() {
		return node6
	}
	return node4
}

// masqueraded runs a test for each family and protocol with pods that are masqueraded. The ports of ICMP echo are its id.
func masqueraded(t *testing.T, test func(t *testing.T, p *path, h hosts, proto uint8, far netip.AddrPort)) {
	c := load(t, "packet", masquerading("masquerade"))
	t.Cleanup(c.Close)
	for _, h := range bothFamilies {
		for name, proto := range map[string]uint8{"TCP": TCP, "UDP": UDP, "ICMP": ICMP} {
			t.Run(h.name+" "+name, func(t *testing.T) {
				p := &path{c, t}
				p.clear()
				p.pod(h.client, Veth, 10)
				p.pod(h.bridged, Bridge, 30)
				p.pod(h.other, Macvlan, 40)
				test(t, p, h, proto, faraway[h.vip.Is6()])
			})
		}
	}
}

// request is a packet that a pod begins with; reply what answers to it.
func request(proto uint8, src, dst netip.AddrPort) frame {
	f := frame{src: src, dst: dst, proto: proto, flags: syn, payload: "ask"}
	if proto == ICMP {
		f.icmp, f.dst = 8, on(dst.Addr(), 0)
		if f.v6() {
			f.icmp = 128
		}
	}
	return f
}

func reply(f frame) frame {
	f.src, f.dst, f.flags, f.payload = f.dst, f.src, syn|ack, "answer"
	if f.proto == ICMP {
		f.src, f.dst, f.icmp = on(f.src.Addr(), f.dst.Port()), on(f.dst.Addr(), 0), f.icmp-8
		if f.v6() {
			f.icmp = 129
		}
	}
	return f
}

func ours(port uint16) bool { return port >= 1024 && port < 32768 }

func TestMasquerade(t *testing.T) {
	masqueraded(t, func(t *testing.T, p *path, h hosts, proto uint8, far netip.AddrPort) {
		for name, v := range map[string]frame{"": {}, "options": {options: 8}, "no checksum": {noSum: true}, "odd": {payload: "x"}} {
			if v.noSum && (proto != UDP || h.vip.Is6()) || v.options > 0 && h.vip.Is6() {
				continue
			}
			for _, pod := range []netip.Addr{h.client, h.bridged} {
				in := request(proto, on(pod, 40000), far)
				in.options, in.noSum = v.options, v.noSum
				if v.payload != "" {
					in.payload = v.payload
				}
				out := p.see("uplink_egress", in, pass)
				if out.src.Addr() != nodeOf(h) || !ours(out.src.Port()) || out.dst.Addr() != far.Addr() || out.payload != in.payload {
					t.Fatalf("%s: %v becomes %v", name, in, out)
				}
				if again := p.see("uplink_egress", in, pass); again.src != out.src {
					t.Errorf("%s: the next packet has %v, the first had %v", name, again.src, out.src)
				}
				answer := reply(out)
				answer.options, answer.noSum = v.options, v.noSum
				got := p.see("uplink_ingress", answer, pass)
				want := reply(in)
				if got.src != want.src || got.dst != want.dst || got.payload != "answer" {
					t.Errorf("%s: answer %v becomes %v, not %v", name, answer, got, want)
				}
			}
		}
		if proto != ICMP {
			in := request(proto, on(h.client, 40000), far)
			out := p.see("uplink_egress", in, pass)
			f, ok := p.flow(far, out.src, proto)
			if !ok || f.Kind != FlowUnmasquerade || f.State&FlowEstablished == 0 {
				t.Errorf("the flow is %+v, there %v", f, ok)
			}
		}
		if p.counted("masqueraded") == 0 {
			t.Error("nothing is counted")
		}
	})
}

// What isn't masqueraded passes as it is, both ways.
func TestNotMasqueraded(t *testing.T) {
	masqueraded(t, func(t *testing.T, p *path, h hosts, proto uint8, far netip.AddrPort) {
		within := netip.PrefixFrom(far.Addr(), far.Addr().BitLen()-8).Masked()
		p.untouched("uplink_egress", request(proto, on(nodeOf(h), 40000), far))
		p.untouched("uplink_egress", request(proto, on(h.outside, 40000), far))
		p.untouched("uplink_ingress", reply(request(proto, on(nodeOf(h), 2000), far)))
		p.untouched("uplink_ingress", reply(request(proto, on(h.client, 2000), far)))
		if proto == TCP {
			for _, flags := range []uint8{ack, syn | ack, rst, fin | ack} {
				in := request(proto, on(h.client, 40001), far)
				in.flags = flags
				p.untouched("uplink_egress", in)
			}
		}
		// A destination that is excluded later keeps the flows that it has.
		before := p.see("uplink_egress", request(proto, on(h.client, 40002), far), pass)
		p.put("excluded", PrefixOf(within), uint32(1))
		defer func() { _ = p.Maps["excluded"].Delete(PrefixOf(within)) }()
		p.untouched("uplink_egress", request(proto, on(h.client, 40003), far))
		if after := p.see("uplink_egress", request(proto, on(h.client, 40002), far), pass); after.src != before.src {
			t.Errorf("a flow had %v, and has %v", before.src, after.src)
		}
	})
}

// A pod that lives on the uplink itself leaves without passing the node.
func TestChildrenAreNotMasqueraded(t *testing.T) {
	masqueraded(t, func(t *testing.T, p *path, h hosts, proto uint8, far netip.AddrPort) {
		p.untouched("uplink_egress", request(proto, on(h.other, 40000), far))
	})
}

// Somebody outside who asks a pod by its own address is answered from there.
func TestAskedFromOutside(t *testing.T) {
	masqueraded(t, func(t *testing.T, p *path, h hosts, proto uint8, far netip.AddrPort) {
		asked := request(proto, far, on(h.client, 5353))
		p.untouched("uplink_ingress", asked)
		p.untouched("uplink_egress", reply(asked))
		p.untouched("uplink_ingress", asked)
		p.untouched("uplink_egress", reply(asked))
		if proto == UDP {
			p.put("asked", flowKey(on(h.client, 5353), far, UDP), seconds(t)-1000)
			if out := p.see("uplink_egress", reply(asked), pass); out.src.Addr() != nodeOf(h) {
				t.Errorf("long after that it asks from %v", out.src)
			}
		}
	})
}

// Two pods with one port to one destination don't meet, and nor do 10,000.
func TestMasqueradePorts(t *testing.T) {
	masqueraded(t, func(t *testing.T, p *path, h hosts, proto uint8, far netip.AddrPort) {
		seen := map[uint16]int{}
		n := 1500 // flows; the test's map holds 4096 entries
		for i := range n {
			pod := []netip.Addr{h.client, h.bridged}[i%2]
			out := p.see("uplink_egress", request(proto, on(pod, uint16(33000+i/2)), far), pass)
			if other, taken := seen[out.src.Port()]; taken {
				t.Fatalf("flows %d and %d have port %d", other, i, out.src.Port())
			}
			seen[out.src.Port()] = i
		}
	})
}

// Where all ports are taken, those of closed connections are given away, the oldest first; else nothing is.
func TestMasqueradeWithoutPorts(t *testing.T) {
	runtime.LockOSThread() // the thread ends with the test; elsewhere servers of the machine's have ports
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	spec, err := Spec("packet")
	if err != nil {
		t.Fatal(err)
	}
	spec.Maps["flows"].MaxEntries = 200_000
	for k, v := range masquerading("masquerade") {
		if err := spec.Variables[k].Set(v); err != nil {
			t.Fatal(err)
		}
	}
	var c *ebpf.Collection
	if err := lifted(func() (err error) { c, err = ebpf.NewCollection(spec); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	p, h, far := &path{c, t}, bothFamilies[0], faraway[false]
	p.pod(h.client, Veth, 10)
	now := seconds(t)
	fill := func(state uint8, age uint32) {
		for port := 1024; port < 32768; port++ {
			p.put("flows", flowKey(far, on(node4, uint16(port)), TCP),
				Flow{Addr: AddressOf(h.bridged), Port: PortOf(uint16(port)), Kind: FlowUnmasquerade, State: state, Seen: now - age})
		}
	}
	fill(FlowEstablished, 0)
	p.see("uplink_egress", request(TCP, on(h.client, 40000), far), shot)
	if n := p.counted("no-room"); n != 1 {
		t.Errorf("no-room is counted %d times", n)
	}
	fill(FlowEstablished|FlowFinForward|FlowFinReverse, 2)
	for i := range 1000 {
		out := p.see("uplink_egress", request(TCP, on(h.client, uint16(40000+i)), far), pass)
		if out.src.Addr() != node4 {
			t.Fatalf("connection %d leaves as %v", i, out.src)
		}
		// The other flow has lost the port, both ways.
		var f Flow
		if err := p.Maps["flows"].Lookup(flowKey(far, out.src, TCP), &f); err != nil || f.Addr != AddressOf(h.client) {
			t.Fatalf("the port belongs to %v: %v", f.Addr.Addr(), err)
		}
	}
	fill(FlowEstablished, 7*3600)
	if out := p.see("uplink_egress", request(TCP, on(h.client, 50000), far), pass); out.src.Addr() != node4 {
		t.Errorf("where all flows are over it leaves as %v", out.src)
	}
	if n := p.counted("no-room"); n != 1 {
		t.Errorf("no-room is counted %d times", n)
	}
}

// The life of a connection: its flow closes, is opened again by the same port, and is forgotten when it is over.
func TestMasqueradedConnection(t *testing.T) {
	masqueraded(t, func(t *testing.T, p *path, h hosts, proto uint8, far netip.AddrPort) {
		if proto != TCP {
			return
		}
		pod := on(h.client, 40000)
		out := p.see("uplink_egress", request(TCP, pod, far), pass)
		state := func() uint8 {
			f, ok := p.flow(far, out.src, TCP)
			if !ok {
				t.Fatal("there is no flow")
			}
			return f.State
		}
		segment := func(program string, src, dst netip.AddrPort, flags uint8) {
			p.see(program, frame{src: src, dst: dst, proto: TCP, flags: flags}, pass)
		}
		segment("uplink_ingress", far, out.src, syn|ack)
		segment("uplink_egress", pod, far, fin|ack)
		segment("uplink_ingress", far, out.src, fin|ack)
		if state() != FlowEstablished|FlowFinForward|FlowFinReverse {
			t.Errorf("after both have closed it is %b", state())
		}
		if again := p.see("uplink_egress", request(TCP, pod, far), pass); again.src != out.src || state() != 0 {
			t.Errorf("begun again it goes by %v in state %b, before by %v", again.src, state(), out.src)
		}
		segment("uplink_ingress", far, out.src, rst)
		if state()&FlowReset == 0 {
			t.Errorf("after a reset it is %b", state())
		}
		p.age(pod, far, TCP, 60)
		p.age(far, out.src, TCP, 60)
		in := frame{src: pod, dst: far, proto: TCP, flags: ack}
		p.untouched("uplink_egress", in)
		p.untouched("uplink_ingress", frame{src: far, dst: out.src, proto: TCP, flags: ack})
	})
}

// A lost entry for answers comes back by what the pod sends; one whose port another flow has got meanwhile doesn't.
func TestMasqueradeEntryLost(t *testing.T) {
	masqueraded(t, func(t *testing.T, p *path, h hosts, proto uint8, far netip.AddrPort) {
		if proto == ICMP {
			return
		}
		pod := on(h.client, 40000)
		out := p.see("uplink_egress", request(proto, pod, far), pass)
		key := flowKey(far, out.src, proto)
		if err := p.Maps["flows"].Delete(key); err != nil {
			t.Fatal(err)
		}
		p.age(pod, far, proto, 1)
		next := request(proto, pod, far)
		next.flags = ack
		p.see("uplink_egress", next, pass)
		if f, ok := p.flow(far, out.src, proto); !ok || f.Addr != AddressOf(h.client) || f.Kind != FlowUnmasquerade {
			t.Errorf("the entry for answers is %+v, there %v", f, ok)
		}
		p.put("flows", key, Flow{Addr: AddressOf(h.bridged), Port: PortOf(9), Kind: FlowUnmasquerade, Seen: seconds(t)})
		p.age(pod, far, proto, 1)
		p.see("uplink_egress", next, pass)
		if f, _ := p.flow(far, out.src, proto); f.Addr != AddressOf(h.bridged) || f.State != 0 {
			t.Errorf("another flow's entry became %+v", f)
		}
		if _, ok := p.flow(pod, far, proto); ok {
			t.Error("the flow that can't be answered is still there")
		}
	})
}

// Flows that there are live on where masquerading ends.
func TestMasqueradeNoMore(t *testing.T) {
	p := newPath(t, "packet", masquerading("masquerade_drain"))
	for _, h := range bothFamilies {
		far := faraway[h.vip.Is6()]
		p.pod(h.client, Veth, 10)
		for _, proto := range []uint8{TCP, UDP, ICMP} {
			p.untouched("uplink_egress", request(proto, on(h.client, 40000), far))
		}
		pod, as := on(h.client, 40001), on(nodeOf(h), 2000)
		p.put("flows", flowKey(pod, far, TCP), Flow{Addr: AddressOf(as.Addr()), Port: PortOf(2000), Kind: FlowMasquerade, Seen: seconds(t)})
		p.put("flows", flowKey(far, as, TCP), Flow{Addr: AddressOf(pod.Addr()), Port: PortOf(40001), Kind: FlowUnmasquerade, Seen: seconds(t)})
		if out := p.see("uplink_egress", frame{src: pod, dst: far, proto: TCP, flags: ack}, pass); out.src != as {
			t.Errorf("a flow that there was leaves as %v", out.src)
		}
		if in := p.see("uplink_ingress", frame{src: far, dst: as, proto: TCP, flags: ack}, pass); in.dst != pod {
			t.Errorf("what comes back goes to %v", in.dst)
		}
	}
}

// Ports that the node itself listens on aren't taken.
func TestMasqueradeAvoidsTheNodesPorts(t *testing.T) {
	p := newPath(t, "packet", func() map[string]uint32 {
		s := masquerading("masquerade")
		for k, v := range MasqueradeSettings(netip.MustParseAddr("127.0.0.1"), netip.Addr{}) {
			s[k] = v
		}
		return s
	}())
	h, far := bothFamilies[0], faraway[false]
	p.pod(h.client, Veth, 10)
	open := map[uint16]bool{}
	for port := 20000; port < 20400; port++ {
		l, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err != nil {
			continue // somebody has it, which is as good
		}
		defer l.Close()
		open[uint16(port)] = true
	}
	for i := range 1900 {
		out := p.see("uplink_egress", request(UDP, on(h.client, uint16(33000+i)), far), pass)
		if open[out.src.Port()] {
			t.Fatalf("flow %d has port %d, on which the node listens", i, out.src.Port())
		}
	}
}

func TestMasqueradedErrors(t *testing.T) {
	masqueraded(t, func(t *testing.T, p *path, h hosts, proto uint8, far netip.AddrPort) {
		pod := on(h.client, 40000)
		in := request(proto, pod, far)
		out := p.see("uplink_egress", in, pass)
		router, kind := netip.MustParseAddr("203.0.113.1"), uint8(11)
		if h.vip.Is6() {
			router, kind = netip.MustParseAddr("2001:db8:5::1"), 3
		}
		for _, who := range []netip.Addr{router, far.Addr()} {
			fails := frame{src: on(who, 0), dst: on(nodeOf(h), 0), proto: ICMP, icmp: kind, payload: string(out.bytes()[14:])}
			got := p.see("uplink_ingress", fails, pass)
			inner := readFrame(t, append(in.bytes()[:14], got.payload...))
			if got.src != fails.src || got.dst.Addr() != h.client || inner.src != in.src || inner.dst.Addr() != far.Addr() {
				t.Errorf("%v about %v becomes %v about %v", fails, out, got, inner)
			}
		}
		if proto == ICMP {
			return
		}
		// The pod, or the node, can't take an answer.
		came := p.see("uplink_ingress", reply(out), pass)
		for _, who := range []netip.Addr{h.client, nodeOf(h)} {
			fails := frame{src: on(who, 0), dst: on(far.Addr(), 0), proto: ICMP, icmp: kind, payload: string(came.bytes()[14:])}
			got := p.see("uplink_egress", fails, pass)
			inner := readFrame(t, append(in.bytes()[:14], got.payload...))
			if got.src.Addr() != nodeOf(h) || got.dst.Addr() != far.Addr() || inner.src != far || inner.dst != out.src {
				t.Errorf("%v about %v becomes %v about %v", fails, came, got, inner)
			}
		}
	})
}

func TestMasqueradedFragments(t *testing.T) {
	masqueraded(t, func(t *testing.T, p *path, h hosts, proto uint8, far netip.AddrPort) {
		if proto == TCP {
			return
		}
		body := make([]byte, 2000)
		for i := range body {
			body[i] = byte(i * 7)
		}
		in := request(proto, on(h.client, 40000), far)
		in.payload = string(body)
		run := func(program string, f frame, id uint32) parsedPacket {
			var parts [][]byte
			for _, part := range fragments(ipHeader{src: f.src.Addr(), dst: f.dst.Addr(), proto: f.wire()}, id, f.transport(), 800) {
				whole := ethernet(part)
				clear(whole[:6]) // the device's own, else it is another host's
				ret, b := p.run(program, whole, skb{})
				if ret != pass {
					t.Fatalf("%s says %d", program, int32(ret))
				}
				parts = append(parts, b[14:])
			}
			return joined(t, parts)
		}
		out := run("uplink_egress", in, 77)
		if out.src.Addr() != nodeOf(h) || !ours(out.src.Port()) || out.payload != in.payload {
			t.Fatalf("it leaves as %v", out.src)
		}
		answer := reply(frame{src: out.src, dst: in.dst, proto: proto, icmp: in.icmp})
		answer.payload = string(body)
		if back := run("uplink_ingress", answer, 78); back.dst.Addr() != h.client || back.payload != answer.payload {
			t.Errorf("the answer goes to %v", back.dst)
		}
	})
}

// parsedPacket is a packet that was put together again.
type parsedPacket = frame

// joined puts fragments together; the checksum must be right.
func joined(t *testing.T, parts [][]byte) parsedPacket {
	t.Helper()
	header, proto := 20, byte(0)
	var transport []byte
	for _, b := range parts {
		if b[0]>>4 == 6 {
			header, proto = 48, b[40]
		} else {
			proto = b[9]
		}
		transport = append(transport, b[header:]...)
	}
	b := parts[0]
	h := ipHeader{proto: proto}
	if b[0]>>4 == 6 {
		h.src, h.dst = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:]))
	} else {
		h.src, h.dst = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:]))
	}
	return readFrame(t, ethernet(h.packet(transport)))
}

// A service whose backend is elsewhere: translated next to the client, masqueraded at the uplink, and both undone.
func TestMasqueradedService(t *testing.T) {
	masqueraded(t, func(t *testing.T, p *path, h hosts, proto uint8, far netip.AddrPort) {
		if proto == ICMP {
			return
		}
		pod, vip := on(h.client, 40000), on(h.vip, 80)
		p.service(vip, proto, Frontend{}, far)
		led := p.see("from_pod", frame{src: pod, dst: vip, proto: proto, flags: syn, smac: [6]byte{2, 0, 0, 0, 1, 10}}, pass)
		if led.dst != far || led.src != pod {
			t.Fatalf("it is led to %v from %v", led.dst, led.src)
		}
		out := p.see("uplink_egress", led, pass)
		if out.src.Addr() != nodeOf(h) || out.dst != far {
			t.Fatalf("it leaves as %v to %v", out.src, out.dst)
		}
		back := p.see("uplink_ingress", reply(out), pass)
		if got := p.see("to_pod", back, pass); got.src != vip || got.dst != pod {
			t.Errorf("the answer comes from %v to %v", got.src, got.dst)
		}
	})
}

func TestPrefix(t *testing.T) {
	for _, text := range []string{"10.0.0.0/8", "0.0.0.0/0", "192.0.2.1/32", "fd00::/16", "::/0", "2001:db8::1/128"} {
		p := netip.MustParsePrefix(text)
		if back := PrefixOf(p).Prefix(); back != p {
			t.Errorf("%v becomes %v", p, back)
		}
	}
	wide := Prefix{Bits: 40, Addr: Address{9: 1}}
	if back := PrefixOf(wide.Prefix()); back.Bits != 40 {
		t.Errorf("a range larger than IPv4 becomes %v", back)
	}
	if got := MasqueradeSettings(node4, netip.Addr{}); got["masquerade4"] != binary.NativeEndian.Uint32(node4.AsSlice()) || got["masquerade6_0"] != 0 {
		t.Errorf("settings are %v", got)
	}
}
