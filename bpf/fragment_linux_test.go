package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
)

// fragments cuts a packet into parts of some bytes, a multiple of 8.
func fragments(h ipHeader, id uint32, transport []byte, size int) (parts [][]byte) {
	for at := 0; at < len(transport); at += size {
		end := min(at+size, len(transport))
		more := uint16(0)
		if end < len(transport) {
			more = 1
		}
		if h.src.Is4() {
			h.id, h.fragment = uint16(id), more<<13|uint16(at/8)
		} else {
			h.ext = 44
			h.options = binary.BigEndian.AppendUint16([]byte{h.proto, 0}, uint16(at)|more)
			h.options = binary.BigEndian.AppendUint32(h.options, id)
		}
		parts = append(parts, h.packet(transport[at:end]))
	}
	return parts
}

// whole puts fragments together again and reads the packet, whose checksum must be right.
func whole(t *testing.T, parts [][]byte) parsed {
	t.Helper()
	h := ipHeader{}
	var transport []byte
	for i, b := range parts {
		header := 20
		if b[0]>>4 == 6 {
			header = 48
			h = ipHeader{src: netip.AddrFrom16([16]byte(b[8:])), dst: netip.AddrFrom16([16]byte(b[24:])), proto: b[40]}
		} else {
			if sum := onesSum(b[:20]); sum != 0xffff {
				t.Errorf("fragment %d: the IPv4 header sums up to %#x", i, sum)
			}
			h = ipHeader{src: netip.AddrFrom4([4]byte(b[12:])), dst: netip.AddrFrom4([4]byte(b[16:])), proto: b[9]}
		}
		transport = append(transport, b[header:]...)
	}
	return mustParse(t, h.packet(transport), false)
}

func TestFragments(t *testing.T) {
	d := newDatapath(t, nil)
	id := uint32(0)
	for _, v := range []struct{ client, front, behind netip.AddrPort }{
		{client4, front4, behind4}, {client6, front6, behind6},
	} {
		for _, proto := range []uint8{TCP, UDP} {
			d.flow(t, proto, v.client, v.front, v.behind)
			for _, c := range []struct {
				program          string
				from, to         netip.AddrPort
				wantFrom, wantTo netip.AddrPort
			}{
				{"from_pod", v.client, v.front, v.client, v.behind},
				{"pod_egress", v.client, v.front, v.client, v.behind},
				{"to_pod", v.behind, v.client, v.front, v.client},
				{"pod_ingress", v.behind, v.client, v.front, v.client},
			} {
				t.Run(fmt.Sprint(c.program, " ", proto, " ", v.client.Addr()), func(t *testing.T) {
					id += 10
					data := bytes.Repeat([]byte("0123456789"), 300)
					transport := segmentOrDatagram(proto, c.from, c.to, data)
					h := ipHeader{src: c.from.Addr(), dst: c.to.Addr(), proto: proto}
					first, second := fragments(h, id+1, transport, 1400), fragments(h, id+2, transport, 1448)
					other := h
					other.src = c.from.Addr().Next().Next()

					untouched := func(what string, packet []byte) {
						t.Helper()
						if act, out := d.run(t, c.program, ethernet(packet)); act != actNext || !bytes.Equal(out[14:], packet) {
							t.Errorf("%s: act %d\n%x became\n%x", what, act, packet, out[14:])
						}
					}
					translated := func(packet []byte) []byte {
						t.Helper()
						act, out := d.run(t, c.program, ethernet(packet))
						if act != actNext {
							t.Errorf("act %d", act)
						}
						return out[14:]
					}
					untouched("overtaken", first[1])
					// Two packets at a time, and what belongs to neither.
					var got1, got2 [][]byte
					for i := range first {
						got1 = append(got1, translated(first[i]))
						if i == 0 {
							untouched("of the second, overtaken", second[1])
						}
						got2 = append(got2, translated(second[i]))
						untouched("of another", fragments(other, id+1, transport, 1400)[1])
						untouched("of a third", fragments(h, id+3, transport, 1400)[1])
					}
					for _, got := range [][][]byte{got1, got2} {
						p := whole(t, got)
						src, dst := p.ports()
						from, to := netip.AddrPortFrom(p.src, src), netip.AddrPortFrom(p.dst, dst)
						if from != c.wantFrom || to != c.wantTo {
							t.Errorf("%v -> %v, want %v -> %v", from, to, c.wantFrom, c.wantTo)
						}
						if !bytes.HasSuffix(p.l4, data) {
							t.Error("the data has changed")
						}
					}
				})
			}
		}
	}
}

// A packet that is refused is answered once, by its first fragment.
func TestFragmentsRefused(t *testing.T) {
	d := newDatapath(t, nil)
	for _, v := range []struct{ client, front netip.AddrPort }{{client4, front4}, {client6, front6}} {
		d.empty(t, v.front, UDP)
		h := ipHeader{src: v.client.Addr(), dst: v.front.Addr(), proto: UDP}
		for i, packet := range fragments(h, 7, udpDatagram(v.client, v.front, make([]byte, 3000)), 1400) {
			act, out := d.run(t, "from_pod", ethernet(packet))
			if i > 0 {
				if act != actNext && act != actShot {
					t.Errorf("act %d", act)
				}
				continue
			}
			if act != actRedirect {
				t.Fatalf("act %d, want %d", act, actRedirect)
			}
			p := checkAnswer(t, out, v.front.Addr(), v.client.Addr())
			if want := packet[:len(p.l4)-8]; len(want) < 500 || !bytes.Equal(p.l4[8:], want) {
				t.Errorf("quoted %x\nof %x", p.l4[8:], packet)
			}
		}
	}
}

// A fragmented ICMP error passes as it is.
func TestFragmentsOfErrors(t *testing.T) {
	d := newDatapath(t, nil)
	d.flow(t, UDP, client4, front4, behind4)
	d.flow(t, UDP, client6, front6, behind6)
	for _, f := range []failure{
		{who: router4, kind: 3, code: 4, proto: UDP, from: client4, to: behind4, data: 400},
		{who: router6, kind: 2, proto: UDP, from: client6, to: behind6, data: 400},
	} {
		packet := f.packet()
		h, header := ipHeader{src: f.who, dst: f.from.Addr(), proto: ICMP}, 20
		if f.who.Is6() {
			h.proto, header = ICMPv6, 40
		}
		for _, part := range fragments(h, 9, packet[header:], 200) {
			for _, program := range []string{"from_pod", "to_pod"} {
				if act, out := d.run(t, program, ethernet(part)); act != actNext || !bytes.Equal(out[14:], part) {
					t.Errorf("act %d\n%x became\n%x", act, part, out[14:])
				}
			}
		}
	}
}
