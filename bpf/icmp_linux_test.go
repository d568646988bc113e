package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
)

// flow adds both entries of a flow from client over front to behind, as the programs do.
func (d datapath) flow(t *testing.T, proto uint8, client, front, behind netip.AddrPort) {
	t.Helper()
	key := func(src, dst netip.AddrPort) FlowKey {
		return FlowKey{Src: AddressOf(src.Addr()), Sport: PortOf(src.Port()),
			Dst: AddressOf(dst.Addr()), Dport: PortOf(dst.Port()), Proto: proto}
	}
	there := Flow{Addr: AddressOf(behind.Addr()), Port: PortOf(behind.Port()), Kind: FlowForward, Seen: seconds(t)}
	back := Flow{Addr: AddressOf(front.Addr()), Port: PortOf(front.Port()), Kind: FlowReverse, Seen: seconds(t)}
	answers := key(behind, client)
	if client.Addr() == behind.Addr() {
		there.Kind, back.Kind = FlowHairpinForward, FlowHairpinReverse
		answers = key(behind, netip.AddrPortFrom(front.Addr(), client.Port()))
	}
	for k, v := range map[FlowKey]Flow{key(client, front): there, answers: back} {
		if err := d.Maps["flows"].Put(k, v); err != nil {
			t.Fatal(err)
		}
	}
}

func segmentOrDatagram(proto uint8, src, dst netip.AddrPort, data []byte) []byte {
	if proto == TCP {
		return tcpSegment(src, dst, 77, 99, ack|psh, nil, data)
	}
	return udpDatagram(src, dst, data)
}

// failure is an ICMP error of who about a packet between two, which it quotes up to some bytes.
type failure struct {
	who        netip.Addr
	kind, code uint8
	rest       uint32
	proto      uint8
	from, to   netip.AddrPort
	data       int
	cut        int // bytes quoted; 0: all
	options    []byte
	ext        uint8
}

func (f failure) packet() []byte {
	data := make([]byte, f.data)
	for i := range data {
		data[i] = byte(i*5 + 3)
	}
	h := ipHeader{src: f.from.Addr(), dst: f.to.Addr(), proto: f.proto, options: f.options, ext: f.ext}
	quoted := h.packet(segmentOrDatagram(f.proto, f.from, f.to, data))
	if f.cut > 0 {
		quoted = quoted[:f.cut]
	}
	proto := uint8(ICMP)
	if f.who.Is6() {
		proto = ICMPv6
	}
	error := icmpMessage(f.who, f.from.Addr(), f.kind, f.code, f.rest, quoted)
	return ipHeader{src: f.who, dst: f.from.Addr(), proto: proto}.packet(error)
}

func TestICMPErrors(t *testing.T) {
	d := newDatapath(t, nil)
	ext := []byte{0, 0, 1, 4, 0, 0, 0, 0}
	for _, v := range []struct {
		client, front, behind, hairpin netip.AddrPort
		router                         netip.Addr
		kinds                          [][2]uint8
		header                         int
		options                        []byte
	}{
		{client4, front4, behind4, netip.MustParseAddrPort("10.0.0.2:8080"), router4,
			[][2]uint8{{3, 1}, {3, 3}, {3, 4}, {11, 0}, {12, 0}}, 20, []byte{7, 7, 4, 0, 0, 0, 0, 0}},
		{client6, front6, behind6, netip.MustParseAddrPort("[fd00::2]:8080"), router6,
			[][2]uint8{{1, 0}, {1, 4}, {2, 0}, {3, 0}, {4, 1}}, 40, ext},
	} {
		for _, proto := range []uint8{TCP, UDP} {
			ext[0] = proto
			d.flow(t, proto, v.client, v.front, v.behind)
			// The client's other port is one of a flow to itself.
			self := netip.AddrPortFrom(v.client.Addr(), 40001)
			d.flow(t, proto, self, v.front, v.hairpin)
			mapped := netip.AddrPortFrom(v.front.Addr(), self.Port())
			for _, kind := range v.kinds {
				for _, c := range []struct {
					name             string
					who              netip.Addr
					from, to         netip.AddrPort
					wantWho          netip.Addr
					wantFrom, wantTo netip.AddrPort
					back             bool // to who sent it
				}{
					{"of a router", v.router, v.client, v.behind, v.router, v.client, v.front, false},
					{"of the backend", v.behind.Addr(), v.client, v.behind, v.front.Addr(), v.client, v.front, false},
					{"of the client", v.client.Addr(), v.front, v.client, v.client.Addr(), v.behind, v.client, false},
					{"of a router to the backend", v.router, v.front, v.client, v.router, v.behind, v.client, false},
					{"of itself as backend", self.Addr(), mapped, v.hairpin, v.front.Addr(), self, v.front, true},
					{"of itself as client", self.Addr(), v.front, self, v.front.Addr(), v.hairpin, mapped, true},
				} {
					for _, data := range []int{0, 1, 500} {
						for _, cut := range []int{0, 8, 16, 18} {
							for _, options := range [][]byte{nil, v.options} {
								f := failure{who: c.who, kind: kind[0], code: kind[1], rest: 1400, proto: proto,
									from: c.from, to: c.to, data: data, options: options, ext: 60}
								if cut > 0 && cut < 8+data {
									f.cut = v.header + len(options) + cut
								}
								name := fmt.Sprint(proto, " ", kind, " ", c.name, " ", data, "/", cut, "+", len(options))
								t.Run(name, func(t *testing.T) {
									want := f
									want.who, want.from, want.to = c.wantWho, c.wantFrom, c.wantTo
									d.checkError(t, f, want, c.back)
								})
							}
						}
					}
				}
			}
		}
	}
}

// checkError gives a failure to all programs and expects it to become another one.
func (d datapath) checkError(t *testing.T, f, want failure, back bool) {
	t.Helper()
	for _, program := range []string{"from_pod", "to_pod", "pod_egress", "pod_ingress"} {
		act, out := d.run(t, program, ethernet(f.packet()))
		if want := want.packet(); !bytes.Equal(out[14:], want) {
			outer := mustParse(t, out[14:], false)
			inner := mustParse(t, outer.l4[8:], true)
			t.Errorf("%s: %v -> %v about %v -> %v\n%x\nwant\n%x", program, outer.src, outer.dst, inner.src, inner.dst,
				out[14:], want)
		}
		wantAct, wantTo := actNext, hostMAC
		if back && (program == "from_pod" || program == "pod_egress") {
			wantAct, wantTo = actRedirect, clientMAC
		}
		if act != wantAct || !bytes.Equal(out[:6], wantTo) {
			t.Errorf("%s: act %d to %x, want %d to %x", program, act, out[:6], wantAct, wantTo)
		}
	}
}

// What is no error about a flow passes as it is.
func TestICMPUntouched(t *testing.T) {
	d := newDatapath(t, nil)
	d.flow(t, UDP, client4, front4, behind4)
	d.flow(t, UDP, client6, front6, behind6)
	good4 := failure{who: router4, kind: 3, code: 4, proto: UDP, from: client4, to: behind4, data: 10}
	good6 := failure{who: router6, kind: 2, proto: UDP, from: client6, to: behind6, data: 10}
	change := func(f failure, fn func(*failure)) []byte { fn(&f); return f.packet() }
	inside := func(b []byte, at int, v ...byte) []byte { copy(b[at:], v); return b }
	const inner4, inner6 = 28, 48
	for name, packet := range map[string][]byte{
		"echo 4":             change(good4, func(f *failure) { f.kind = 8 }),
		"redirect 4":         change(good4, func(f *failure) { f.kind = 5 }),
		"echo 6":             change(good6, func(f *failure) { f.kind = 128 }),
		"type 5 6":           change(good6, func(f *failure) { f.kind = 5 }),
		"neighbour 6":        change(good6, func(f *failure) { f.kind = 135 }),
		"other port 4":       change(good4, func(f *failure) { f.to = netip.AddrPortFrom(f.to.Addr(), 1) }),
		"other protocol 4":   change(good4, func(f *failure) { f.proto = TCP }),
		"nothing quoted 4":   good4.packet()[:inner4],
		"half a header 4":    good4.packet()[:inner4+10],
		"half the ports 4":   good4.packet()[:inner4+22],
		"nothing quoted 6":   good6.packet()[:inner6],
		"half a header 6":    good6.packet()[:inner6+30],
		"half the ports 6":   good6.packet()[:inner6+42],
		"version 4":          inside(good4.packet(), inner4, 0x65),
		"version 6":          inside(good6.packet(), inner6, 0x45),
		"header of 16 bytes": inside(good4.packet(), inner4, 0x44),
		"header of 60 bytes": inside(good4.packet(), inner4, 0x4f),
		"of a fragment 4":    inside(good4.packet(), inner4+6, 0, 100),
		"about ICMP 4":       inside(good4.packet(), inner4+9, ICMP),
		"about ICMP 6":       inside(good6.packet(), inner6+6, ICMPv6),
		"extension past 6":   inside(good6.packet(), inner6+6, 60),
		"of a fragment 6":    inside(good6.packet(), inner6+6, 44, 64, 0),
		"a fragment itself":  inside(good4.packet(), 6, 0x20, 0),
		"a later fragment":   inside(good4.packet(), 6, 0, 20),
		"to somebody else 4": inside(good4.packet(), 16, 10, 9, 9, 9),
		"to somebody else 6": inside(good6.packet(), 24, 0xfd, 9),
		"no next header 6":   inside(good6.packet(), inner6+6, 59),
		"many extensions 6":  chained(6),
	} {
		t.Run(name, func(t *testing.T) {
			if _, out := d.run(t, "from_pod", ethernet(packet)); !bytes.Equal(out[14:], packet) {
				t.Errorf("%x became\n%x", packet, out[14:])
			}
		})
	}
}

// chained is an error about a packet with n extension headers.
func chained(n int) []byte {
	var options []byte
	for i := range n {
		next := uint8(60)
		if i == n-1 {
			next = UDP
		}
		options = append(options, next, 0, 1, 4, 0, 0, 0, 0)
	}
	f := failure{who: router6, kind: 2, proto: UDP, from: client6, to: behind6, data: 10, options: options, ext: 60}
	return f.packet()
}

// However an error is broken, whatever becomes of it: its checksum is as wrong or right as before, and its length the same.
func TestICMPHostile(t *testing.T) {
	d := newDatapath(t, nil)
	for _, proto := range []uint8{TCP, UDP} {
		d.flow(t, proto, client4, front4, behind4)
		d.flow(t, proto, client6, front6, behind6)
	}
	r := rand.New(rand.NewPCG(1, 2))
	sum := func(packet []byte) uint16 {
		if packet[0]>>4 == 4 {
			return onesSum(packet[20:])
		}
		src, dst := netip.AddrFrom16([16]byte(packet[8:])), netip.AddrFrom16([16]byte(packet[24:]))
		return onesSum(pseudoHeader(src, dst, ICMPv6, len(packet)-40), packet[40:])
	}
	translated := 0
	for i := range 3000 {
		f := failure{who: router4, kind: 3, code: 3, proto: []uint8{TCP, UDP}[i%2], from: client4, to: behind4, data: r.IntN(80)}
		header := 28
		if i%4 < 2 {
			f.who, f.from, f.to, f.kind, header = router6, client6, behind6, 1, 48
		}
		packet := f.packet()
		for range r.IntN(3) {
			packet[header+r.IntN(len(packet)-header)] ^= 1 << r.IntN(8)
		}
		packet = packet[:len(packet)-r.IntN(len(packet)-header)]
		if header == 28 {
			binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
			binary.BigEndian.PutUint16(packet[10:], 0)
			binary.BigEndian.PutUint16(packet[10:], ^onesSum(packet[:20]))
		} else {
			binary.BigEndian.PutUint16(packet[4:], uint16(len(packet)-40))
		}
		act, out := d.run(t, "from_pod", ethernet(packet))
		if act == actShot {
			continue
		}
		out = out[14:]
		if !bytes.Equal(out, packet) {
			translated++
		}
		before, after := sum(packet), sum(out)
		if len(out) != len(packet) || before%0xffff != after%0xffff {
			t.Fatalf("the sum was %#x and is %#x\n%x\n%x", before, after, packet, out)
		}
	}
	if translated < 100 {
		t.Errorf("%d errors were translated: too few to tell anything", translated)
	}
}
