package bpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"
)

// Bits of TCP's flags.
const (
	fin = 1
	syn = 2
	rst = 4
	ack = 16
)

// frame is an Ethernet frame with an IP packet, as tests write and read them.
type frame struct {
	src, dst     netip.AddrPort // ports of ICMP echo: the first is its id
	proto        uint8          // of one family's names: ICMP stands for both
	flags        uint8          // TCP
	payload      string
	hops         uint8
	options      int  // bytes of IPv4 options, a multiple of 4
	extensions   int  // of IPv6, 8 bytes each
	noSum        bool // UDP without checksum
	id           uint16
	offset       int // of a fragment, in the transport packet
	more         bool
	dmac, smac   [6]byte
	icmp, code   uint8
	afterwards   int    // bytes behind the packet, in the frame
	total        uint16 // IPv4 and IPv6: another length than the true one, unless 0
	ethertype    uint16 // another one than the true one, unless 0
	transportLen int    // bytes of the transport header that are there, unless 0
}

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func (f frame) v6() bool { return f.src.Addr().Is6() }

func (f frame) String() string {
	s := fmt.Sprintf("%v > %v proto %d flags %d hops %d %q", f.src, f.dst, f.proto, f.flags, f.hops, f.payload)
	if f.more || f.offset > 0 {
		s += fmt.Sprintf(" fragment %d of %d, more %v", f.offset, f.id, f.more)
	}
	if f.proto == ICMP {
		s += fmt.Sprintf(" icmp %d/%d", f.icmp, f.code)
	}
	return s
}

// sum is the Internet checksum's sum, not yet complemented.
func sum(b []byte, s uint32) uint32 {
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return s
}

// wire is the protocol's number in the header.
func (f frame) wire() uint8 {
	if f.proto == ICMP && f.v6() {
		return ICMPv6
	}
	return f.proto
}

func (f frame) pseudo(n int) uint32 {
	b := append(f.src.Addr().AsSlice(), f.dst.Addr().AsSlice()...)
	return sum(b, uint32(f.wire())+uint32(n))
}

// transport is the packet's transport header and payload.
func (f frame) transport() []byte {
	be := binary.BigEndian
	var h []byte
	check := 0
	switch f.proto {
	case TCP:
		h = make([]byte, 20)
		be.PutUint16(h, f.src.Port())
		be.PutUint16(h[2:], f.dst.Port())
		be.PutUint32(h[4:], 1000)
		be.PutUint32(h[8:], 2000)
		h[12], h[13] = 5<<4, f.flags
		be.PutUint16(h[14:], 512)
		check = 16
	case UDP:
		h = make([]byte, 8)
		be.PutUint16(h, f.src.Port())
		be.PutUint16(h[2:], f.dst.Port())
		be.PutUint16(h[4:], uint16(8+len(f.payload)))
		check = 6
	case ICMP:
		h = make([]byte, 8)
		h[0], h[1] = f.icmp, f.code
		be.PutUint16(h[4:], f.src.Port())
		check = 2
	default:
		return []byte(f.payload)
	}
	b := append(h, f.payload...)
	if f.noSum {
		return b
	}
	s := f.pseudo(len(b))
	if f.proto == ICMP && !f.v6() {
		s = 0
	}
	c := ^uint16(sum(b, s))
	if f.proto == UDP && c == 0 {
		c = 0xffff
	}
	be.PutUint16(b[check:], c)
	return b
}

// bytes are the frame's.
func (f frame) bytes() []byte {
	be := binary.BigEndian
	body := f.transport()
	if f.transportLen > 0 {
		body = body[:f.transportLen]
	}
	if f.offset > 0 || f.more {
		end := len(body)
		if f.more {
			end = f.offset + (len(body)-f.offset)/2&^7 // so tests cut in two
		}
		body = body[f.offset:end]
	}
	hops := f.hops
	if hops == 0 {
		hops = 64
	}
	b := append(slices.Clone(f.dmac[:]), f.smac[:]...)
	if f.v6() {
		next := f.wire()
		var ext []byte
		if f.offset > 0 || f.more {
			e := make([]byte, 8)
			e[0] = next
			be.PutUint16(e[2:], uint16(f.offset))
			if f.more {
				e[3] |= 1
			}
			be.PutUint32(e[4:], uint32(f.id))
			ext, next = e, 44
		}
		for range f.extensions {
			ext = append([]byte{next, 0, 1, 4, 0, 0, 0, 0}, ext...)
			next = 60
		}
		h := make([]byte, 40)
		h[0] = 6 << 4
		be.PutUint16(h[4:], uint16(len(ext)+len(body)))
		if f.total != 0 {
			be.PutUint16(h[4:], f.total)
		}
		h[6], h[7] = next, hops
		copy(h[8:], f.src.Addr().AsSlice())
		copy(h[24:], f.dst.Addr().AsSlice())
		b = append(b, 0x86, 0xdd)
		b = append(append(append(b, h...), ext...), body...)
	} else {
		h := make([]byte, 20+f.options)
		h[0] = 4<<4 | byte(len(h)/4)
		be.PutUint16(h[2:], uint16(len(h)+len(body)))
		if f.total != 0 {
			be.PutUint16(h[2:], f.total)
		}
		be.PutUint16(h[4:], f.id)
		be.PutUint16(h[6:], uint16(f.offset/8))
		if f.more {
			h[6] |= 0x20
		}
		h[8], h[9] = hops, f.wire()
		copy(h[12:], f.src.Addr().AsSlice())
		copy(h[16:], f.dst.Addr().AsSlice())
		for i := 20; i < len(h); i++ {
			h[i] = 1
		}
		be.PutUint16(h[10:], ^uint16(sum(h, 0)))
		b = append(b, 8, 0)
		b = append(append(b, h...), body...)
	}
	if f.ethertype != 0 {
		be.PutUint16(b[12:], f.ethertype)
	}
	return append(b, make([]byte, f.afterwards)...)
}

// readFrame reads a frame and verifies every checksum in it.
func readFrame(t testing.TB, b []byte) (f frame) {
	t.Helper()
	be := binary.BigEndian
	if len(b) < 34 {
		t.Fatalf("frame of %d bytes: %x", len(b), b)
	}
	copy(f.dmac[:], b)
	copy(f.smac[:], b[6:])
	var src, dst netip.Addr
	var body []byte
	switch be.Uint16(b[12:]) {
	case 0x0800:
		head := int(b[14]&15) * 4
		f.options = head - 20
		h := b[14 : 14+head]
		if s := sum(h, 0); s != 0xffff {
			t.Errorf("IPv4 header's checksum is off: %x in %x", s, h)
		}
		src, _ = netip.AddrFromSlice(h[12:16])
		dst, _ = netip.AddrFromSlice(h[16:20])
		f.hops, f.proto, f.id = h[8], h[9], be.Uint16(h[4:])
		f.offset, f.more = int(be.Uint16(h[6:])&0x1fff)*8, h[6]&0x20 != 0
		n := int(be.Uint16(h[2:]))
		if n < head || 14+n > len(b) {
			t.Fatalf("length %d in a frame of %d bytes", n, len(b))
		}
		body = b[14+head : 14+n]
	case 0x86dd:
		h := b[14:54]
		src, _ = netip.AddrFromSlice(h[8:24])
		dst, _ = netip.AddrFromSlice(h[24:40])
		f.hops = h[7]
		next := h[6]
		body = b[54 : 54+int(be.Uint16(h[4:]))]
		for next == 60 || next == 44 {
			if next == 44 {
				f.offset, f.more = int(be.Uint16(body[2:])&0xfff8), body[3]&1 != 0
				f.id = uint16(be.Uint32(body[4:]))
			} else {
				f.extensions++
			}
			next, body = body[0], body[8:]
		}
		f.proto = next
		if f.proto == ICMPv6 {
			f.proto = ICMP
		}
	default:
		t.Fatalf("ethertype %x", b[12:14])
	}
	var sport, dport uint16
	f.src, f.dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
	if f.offset > 0 {
		f.payload = string(body)
		return f
	}
	head := 8
	switch f.proto {
	case TCP:
		sport, dport, f.flags = be.Uint16(body), be.Uint16(body[2:]), body[13]
		head = 20
	case UDP:
		sport, dport = be.Uint16(body), be.Uint16(body[2:])
		f.noSum = be.Uint16(body[6:]) == 0
	case ICMP:
		f.icmp, f.code = body[0], body[1]
		sport = be.Uint16(body[4:])
	default:
		head = 0
	}
	f.src, f.dst = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	f.payload = string(body[head:])
	if head > 0 && !f.more && !f.noSum {
		s := f.pseudo(len(body))
		if f.proto == ICMP && !f.v6() {
			s = 0
		}
		if s = sum(body, s); s != 0xffff {
			t.Errorf("checksum of %v is off: %x", f, s)
		}
	}
	return f
}
