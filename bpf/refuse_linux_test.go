package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
)

// An answer comes from the service, on the way back.
func checkAnswer(t *testing.T, out []byte, src, dst netip.Addr) parsed {
	t.Helper()
	if !bytes.Equal(out[:6], clientMAC) || !bytes.Equal(out[6:12], hostMAC) {
		t.Errorf("MACs are %x", out[:12])
	}
	p := mustParse(t, out[14:], false)
	if p.src != src || p.dst != dst {
		t.Errorf("%v -> %v, want %v -> %v", p.src, p.dst, src, dst)
	}
	return p
}

func TestRefuseTCP(t *testing.T) {
	d := newDatapath(t, nil)
	options4 := []byte{7, 7, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1}
	options6 := []byte{TCP, 0, 1, 4, 0, 0, 0, 0}
	for _, at := range []struct{ client, service netip.AddrPort }{{client4, front4}, {client6, front6}} {
		d.empty(t, at.service, TCP)
		ipOptions, ext := options4, uint8(0)
		if at.client.Addr().Is6() {
			ipOptions, ext = options6, 60
		}
		for _, c := range []struct {
			name       string
			seq, ack   uint32
			flags      uint8
			options    []byte
			data       int
			ipOptions  []byte
			behind     int // bytes after the packet: Ethernet pads
			wantFlags  uint8
			wantSeq    uint32
			wantAcked  uint32
			unanswered bool
		}{
			{name: "syn", seq: 1000, flags: syn, wantFlags: rst | ack, wantAcked: 1001},
			{name: "syn with options", seq: 1000, flags: syn, options: make([]byte, 40), wantFlags: rst | ack, wantAcked: 1001},
			{name: "syn with IP options", seq: 1000, flags: syn, ipOptions: ipOptions, wantFlags: rst | ack, wantAcked: 1001},
			{name: "syn with padding", seq: 1000, flags: syn, behind: 6, wantFlags: rst | ack, wantAcked: 1001},
			{name: "syn with data", seq: 1000, flags: syn, data: 700, wantFlags: rst | ack, wantAcked: 1701},
			{name: "last number", seq: 1<<32 - 1, flags: syn, wantFlags: rst | ack, wantAcked: 0},
			{name: "fin, no ack", seq: 1000, flags: fin, data: 3, wantFlags: rst | ack, wantAcked: 1004},
			{name: "nothing", seq: 1000, wantFlags: rst | ack, wantAcked: 1000},
			{name: "ack", seq: 1000, ack: 5000, flags: ack, wantFlags: rst, wantSeq: 5000},
			{name: "data", seq: 1000, ack: 5000, flags: ack | psh, data: 1400, wantFlags: rst, wantSeq: 5000},
			{name: "fin", seq: 1000, ack: 5000, flags: ack | fin, wantFlags: rst, wantSeq: 5000},
			{name: "syn ack", seq: 1000, ack: 5000, flags: ack | syn, wantFlags: rst, wantSeq: 5000},
			{name: "rst", seq: 1000, flags: rst, unanswered: true},
			{name: "rst ack", seq: 1000, ack: 5000, flags: rst | ack, unanswered: true},
		} {
			t.Run(fmt.Sprint(c.name, " ", at.client.Addr()), func(t *testing.T) {
				segment := tcpSegment(at.client, at.service, c.seq, c.ack, c.flags, c.options, make([]byte, c.data))
				h := ipHeader{src: at.client.Addr(), dst: at.service.Addr(), proto: TCP, options: c.ipOptions, ext: ext}
				in := append(ethernet(h.packet(segment)), make([]byte, c.behind)...)
				act, out := d.run(t, "from_pod", in)
				if c.unanswered {
					if act != actShot && act != actNext {
						t.Errorf("act %d: it was answered", act)
					}
					return
				}
				if act != actRedirect {
					t.Fatalf("act %d, want %d", act, actRedirect)
				}
				p := checkAnswer(t, out, at.service.Addr(), at.client.Addr())
				if p.proto != TCP || len(p.l4) != 20 || p.l4[12] != 5<<4 {
					t.Fatalf("protocol %d, %x is no bare TCP header", p.proto, p.l4)
				}
				if src, dst := p.ports(); src != at.service.Port() || dst != at.client.Port() {
					t.Errorf("ports %d -> %d", src, dst)
				}
				seq, acked := binary.BigEndian.Uint32(p.l4[4:]), binary.BigEndian.Uint32(p.l4[8:])
				if p.l4[13] != c.wantFlags || seq != c.wantSeq || acked != c.wantAcked {
					t.Errorf("flags %#x seq %d ack %d, want %#x %d %d", p.l4[13], seq, acked, c.wantFlags, c.wantSeq, c.wantAcked)
				}
			})
		}
	}
}

func TestRefuseUDP(t *testing.T) {
	d := newDatapath(t, nil)
	for _, at := range []struct {
		client, service   netip.AddrPort
		proto, kind, code uint8
		header, most      int
	}{
		{client4, front4, ICMP, 3, 3, 20, 576 - 28},
		{client6, front6, ICMPv6, 1, 4, 40, 1280 - 48},
	} {
		d.empty(t, at.service, UDP)
		for _, size := range []int{0, 1, 2, 3, 63, 64, 65, 100, 127, 128, 129, 500, 519, 520, 521, 1183, 1184, 1185, 1400, 1472} {
			for _, behind := range []int{0, 5} {
				t.Run(fmt.Sprint(at.client.Addr(), " ", size, "+", behind), func(t *testing.T) {
					data := make([]byte, size)
					for i := range data {
						data[i] = byte(i*7 + 1)
					}
					h := ipHeader{src: at.client.Addr(), dst: at.service.Addr(), proto: UDP}
					packet := h.packet(udpDatagram(at.client, at.service, data))
					act, out := d.run(t, "from_pod", append(ethernet(packet), make([]byte, behind)...))
					if act != actRedirect {
						t.Fatalf("act %d, want %d", act, actRedirect)
					}
					p := checkAnswer(t, out, at.service.Addr(), at.client.Addr())
					if p.proto != at.proto || p.l4[0] != at.kind || p.l4[1] != at.code {
						t.Fatalf("protocol %d type %d code %d", p.proto, p.l4[0], p.l4[1])
					}
					if want := packet[:min(len(packet), at.most)]; !bytes.Equal(p.l4[8:], want) {
						t.Errorf("quoted %d bytes %x\nwant %d bytes %x", len(p.l4)-8, p.l4[8:], len(want), want)
					}
				})
			}
		}
	}
}

// What has no answer is dropped, and nothing is read or written that isn't there.
func TestRefuseNothing(t *testing.T) {
	d := newDatapath(t, nil)
	d.empty(t, front4, TCP, UDP)
	d.empty(t, front6, TCP, UDP)
	h4 := ipHeader{src: client4.Addr(), dst: front4.Addr()}
	h6 := ipHeader{src: client6.Addr(), dst: front6.Addr()}
	with := func(h ipHeader, proto uint8) ipHeader { h.proto = proto; return h }
	from := func(a string, h ipHeader) ipHeader { h.src = netip.MustParseAddr(a); return h }
	long := func(b []byte, at int, v uint16) []byte { binary.BigEndian.PutUint16(b[at:], v); return b }
	segment4, segment6 := tcpSegment(client4, front4, 1, 0, syn, nil, nil), tcpSegment(client6, front6, 1, 0, syn, nil, nil)
	datagram4, datagram6 := udpDatagram(client4, front4, []byte("x")), udpDatagram(client6, front6, []byte("x"))
	for name, b := range map[string][]byte{
		"short tcp 4":           with(h4, TCP).packet(segment4[:12]),
		"short tcp 6":           with(h6, TCP).packet(segment6[:12]),
		"short udp 4":           with(h4, UDP).packet(datagram4[:6]),
		"short udp 6":           with(h6, UDP).packet(datagram6[:6]),
		"data offset beyond 4":  with(h4, TCP).packet(append(append(bytes.Clone(segment4[:12]), 0xf0), segment4[13:]...)),
		"data offset below 6":   with(h6, TCP).packet(append(append(bytes.Clone(segment6[:12]), 0x40), segment6[13:]...)),
		"length below header 4": long(with(h4, TCP).packet(segment4), 2, 19),
		"length below udp 6":    long(with(h6, UDP).packet(datagram6), 4, 7),
		"from a group 4":        from("224.0.0.1", with(h4, UDP)).packet(datagram4),
		"from a group 6":        from("ff02::1", with(h6, UDP)).packet(datagram6),
		"from everybody":        from("255.255.255.255", with(h4, UDP)).packet(datagram4),
	} {
		if act, _ := d.run(t, "from_pod", ethernet(b)); act != actShot && act != actNext {
			t.Errorf("%s: act %d", name, act)
		}
	}
}
