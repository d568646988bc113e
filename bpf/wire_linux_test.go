package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
)

const (
	actOK       = 0
	actShot     = 2
	actRedirect = 7
	actNext     = -1
)

var (
	clientMAC = []byte{2, 0, 0, 0, 0, 1}
	hostMAC   = []byte{2, 0, 0, 0, 0, 2}

	client4, client6 = netip.MustParseAddrPort("10.0.0.2:40000"), netip.MustParseAddrPort("[fd00::2]:40000")
	behind4, behind6 = netip.MustParseAddrPort("10.0.0.3:8080"), netip.MustParseAddrPort("[fd00::3]:8080")
	front4, front6   = netip.MustParseAddrPort("10.96.0.1:80"), netip.MustParseAddrPort("[fd00:96::1]:80")
	router4, router6 = netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
)

// datapath is object packet with maps of its own.
type datapath struct{ *path }

func newDatapath(t *testing.T, settings map[string]uint32) datapath {
	t.Helper()
	p := newPath(t, "packet", settings)
	// Flows are written by the tests themselves here, so any may be known.
	p.put("marked", uint32(0), bytes.Repeat([]byte{1}, int(p.Maps["marked"].ValueSize())))
	return datapath{p}
}

// empty adds a service that nobody stands behind.
func (d datapath) empty(t *testing.T, at netip.AddrPort, protos ...uint8) {
	t.Helper()
	for _, proto := range protos {
		key := FrontendKey{Addr: AddressOf(at.Addr()), Port: PortOf(at.Port()), Proto: proto}
		if err := d.Maps["frontends"].Put(key, Frontend{Service: uint64(proto), Algorithm: Random}); err != nil {
			t.Fatal(err)
		}
	}
}

// run gives a frame to a program.
func (d datapath) run(t *testing.T, program string, frame []byte) (act int, out []byte) {
	t.Helper()
	options := ebpf.RunOptions{Data: frame, DataOut: make([]byte, 4096)}
	ret, err := d.Programs[program].Run(&options)
	if err != nil {
		t.Fatal(err)
	}
	return int(int32(ret)), options.DataOut
}

// The sum of checksums: RFC 1071.
func onesSum(parts ...[]byte) uint16 {
	var sum uint32
	for _, b := range parts {
		for i := 0; i < len(b); i += 2 {
			if i+1 < len(b) {
				sum += uint32(binary.BigEndian.Uint16(b[i:]))
			} else {
				sum += uint32(b[i]) << 8
			}
			sum = sum&0xffff + sum>>16
		}
	}
	return uint16(sum)
}

func pseudoHeader(src, dst netip.Addr, proto uint8, length int) []byte {
	b := append(src.AsSlice(), dst.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	return append(b, 0, 0, 0, proto)
}

// ipHeader is an IP packet; options are those of IPv4, or extension headers of IPv6, the first of which is of type ext.
type ipHeader struct {
	src, dst netip.Addr
	proto    uint8
	options  []byte
	ext      uint8
	id       uint16
	fragment uint16 // flags and offset of IPv4
}

func (h ipHeader) packet(payload []byte) []byte {
	if h.src.Is4() {
		b := []byte{0x40 | byte(5+len(h.options)/4), 0}
		b = binary.BigEndian.AppendUint16(b, uint16(20+len(h.options)+len(payload)))
		b = binary.BigEndian.AppendUint16(b, h.id)
		b = binary.BigEndian.AppendUint16(b, h.fragment)
		b = append(b, 64, h.proto, 0, 0)
		b = append(append(append(b, h.src.AsSlice()...), h.dst.AsSlice()...), h.options...)
		binary.BigEndian.PutUint16(b[10:], ^onesSum(b))
		return append(b, payload...)
	}
	next := h.proto
	if len(h.options) > 0 {
		next = h.ext
	}
	b := []byte{0x60, 0, 0, 0}
	b = binary.BigEndian.AppendUint16(b, uint16(len(h.options)+len(payload)))
	b = append(b, next, 64)
	b = append(append(append(b, h.src.AsSlice()...), h.dst.AsSlice()...), h.options...)
	return append(b, payload...)
}

func ethernet(packet []byte) []byte {
	b := append(append([]byte{}, hostMAC...), clientMAC...)
	if packet[0]>>4 == 4 {
		b = append(b, 8, 0)
	} else {
		b = append(b, 0x86, 0xdd)
	}
	return append(b, packet...)
}

const psh = 8

// tcpSegment is a segment; options are its own.
func tcpSegment(src, dst netip.AddrPort, seq, acked uint32, flags uint8, options, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint32(b, acked)
	b = append(b, byte(5+len(options)/4)<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	b = append(append(b, options...), data...)
	binary.BigEndian.PutUint16(b[16:], ^onesSum(pseudoHeader(src.Addr(), dst.Addr(), TCP, len(b)), b))
	return b
}

func udpDatagram(src, dst netip.AddrPort, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(data)))
	b = append(append(b, 0, 0), data...)
	sum := ^onesSum(pseudoHeader(src.Addr(), dst.Addr(), UDP, len(b)), b)
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[6:], sum)
	return b
}

func icmpMessage(src, dst netip.Addr, kind, code uint8, rest uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{kind, code, 0, 0}, rest)
	b = append(b, data...)
	sum := onesSum(b)
	if src.Is6() {
		sum = onesSum(pseudoHeader(src, dst, ICMPv6, len(b)), b)
	}
	binary.BigEndian.PutUint16(b[2:], ^sum)
	return b
}

// parsed is a packet whose lengths agree and whose checksums are all right.
type parsed struct {
	src, dst netip.Addr
	proto    uint8
	l4       []byte // what follows the IP header
}

func (p parsed) ports() (src, dst uint16) {
	return binary.BigEndian.Uint16(p.l4), binary.BigEndian.Uint16(p.l4[2:])
}

// parseIP reads an IP packet. A quoted one may be cut, so its length and the checksum of what it holds tell nothing.
func parseIP(b []byte, quoted bool) (p parsed, err error) {
	var length, header int
	if len(b) < 20 {
		return p, fmt.Errorf("%d bytes are no packet", len(b))
	}
	switch b[0] >> 4 {
	case 4:
		header, length = int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
		if onesSum(b[:header]) != 0xffff {
			return p, fmt.Errorf("the IPv4 header sums up to %#x", onesSum(b[:header]))
		}
		p.src, p.dst, p.proto = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])), b[9]
	case 6:
		header, length = 40, 40+int(binary.BigEndian.Uint16(b[4:]))
		p.src, p.dst, p.proto = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:])), b[6]
		for p.proto == 60 || p.proto == 44 {
			p.proto = b[header]
			header += 8
		}
	default:
		return p, fmt.Errorf("version %d", b[0]>>4)
	}
	p.l4 = b[header:]
	if quoted && length > len(b) {
		return p, nil
	}
	if length != len(b) {
		return p, fmt.Errorf("the header says %d bytes of %d", length, len(b))
	}
	pseudo := pseudoHeader(p.src, p.dst, p.proto, len(p.l4))
	switch {
	case p.proto == ICMP:
		pseudo = nil
	case p.proto == UDP && binary.BigEndian.Uint16(p.l4[6:]) == 0 && p.src.Is4():
		return p, nil
	}
	if sum := onesSum(pseudo, p.l4); sum != 0xffff {
		return p, fmt.Errorf("protocol %d sums up to %#x", p.proto, sum)
	}
	return p, nil
}

func mustParse(t *testing.T, b []byte, quoted bool) parsed {
	t.Helper()
	p, err := parseIP(b, quoted)
	if err != nil {
		t.Fatalf("%v\n%x", err, b)
	}
	return p
}
