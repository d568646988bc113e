package bpf

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
)

// arpFrame asks who has an address, in somebody's name.
func arpFrame(smac [6]byte, sender, target netip.Addr) []byte {
	b := append(slices.Repeat([]byte{255}, 6), smac[:]...)
	b = append(b, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	b = append(append(b, smac[:]...), sender.AsSlice()...)
	return append(append(b, make([]byte, 6)...), target.AsSlice()...)
}

// advertisement says who has an IPv6 address.
func advertisement(smac [6]byte, src, target netip.Addr) frame {
	return frame{src: on(src, 0), dst: at("[ff02::1]:0"), proto: ICMP, icmp: 136, smac: smac,
		payload: string(target.AsSlice()) + "\x02\x01" + string(smac[:])}
}

// sources are frames of a pod with an address, and what becomes of them.
type source struct {
	name string
	in   []byte
	drop bool
}

func sourcesOf(smac [6]byte, own, own6, others, others6, foreign, foreign6 netip.Addr) []source {
	outside, outside6 := at("192.0.2.1:53"), at("[2001:db8::1]:53")
	udp := func(src netip.Addr, dst netip.AddrPort) []byte {
		return frame{src: on(src, 68), dst: dst, proto: UDP, smac: smac, payload: "x"}.bytes()
	}
	a := netip.MustParseAddr
	// The id of the tag is 0, so it is none: the stack would look inside.
	tagged := func(id byte) []byte {
		b := udp(others, outside)
		return slices.Concat(b[:12], []byte{0x81, 0, 0, id}, b[12:])
	}
	double := frame{src: on(foreign, 1), dst: outside, proto: UDP, smac: smac}
	return []source{
		{"own", udp(own, outside), false},
		{"own, IPv6", udp(own6, outside6), false},
		{"own, later fragment", frame{src: on(own, 1), dst: outside, proto: UDP, payload: "0123456789abcdef", offset: 8, smac: smac}.bytes(), false},
		{"own, unknown protocol", frame{src: on(own, 0), dst: outside, proto: 132, payload: "x", smac: smac}.bytes(), false},
		{"another pod's", udp(others, outside), true},
		{"another pod's, IPv6", udp(others6, outside6), true},
		{"another pod's, later fragment", frame{src: on(others, 1), dst: outside, proto: UDP, payload: "0123456789abcdef", offset: 8, smac: smac}.bytes(), true},
		{"another pod's, behind extensions", frame{src: on(others6, 1), dst: outside6, proto: UDP, extensions: 8, smac: smac}.bytes(), true},
		{"another pod's, behind a tag that is none", tagged(0), true},
		{"in a VLAN", tagged(5), false},
		{"nobody's", udp(foreign, outside), true},
		{"nobody's, IPv6", udp(foreign6, outside6), true},
		{"loopback", udp(a("127.0.0.1"), outside), true},
		{"link-local of IPv4", udp(a("169.254.1.1"), outside), true},
		{"broadcast", udp(a("255.255.255.255"), outside), true},
		{"DHCP", udp(a("0.0.0.0"), at("255.255.255.255:67")), false},
		{"unspecified", udp(a("0.0.0.0"), outside), true},
		{"unspecified, IPv6", udp(a("::"), outside6), true},
		{"link-local", udp(a("fe80::2"), at("[fe80::1]:53")), false},
		{"duplicate address detection", frame{src: on(a("::"), 0), dst: at("[ff02::1:ff00:1]:0"), proto: ICMP, icmp: 135,
			payload: string(own6.AsSlice()), smac: smac}.bytes(), false},
		{"advertisement", advertisement(smac, own6, own6).bytes(), false},
		{"advertisement of link-local", advertisement(smac, a("fe80::2"), a("fe80::2")).bytes(), false},
		{"advertisement of another's", advertisement(smac, own6, others6).bytes(), true},
		{"advertisement of another's from link-local", advertisement(smac, a("fe80::2"), others6).bytes(), true},
		{"ARP", arpFrame(smac, own, others), false},
		{"ARP probe", arpFrame(smac, a("0.0.0.0"), own), false},
		{"ARP of another's", arpFrame(smac, others, own), true},
		{"ARP of nobody's", arpFrame(smac, foreign, own), true},
		{"short ARP", arpFrame(smac, own, others)[:30], true},
		{"tagged", func() []byte { double.ethertype = 0x8100; return double.bytes() }(), false},
	}
}

func TestSource(t *testing.T) {
	own, own6, others, others6 := bothFamilies[0].client, bothFamilies[1].client, bothFamilies[0].backend, bothFamilies[1].backend
	foreign, foreign6 := bothFamilies[0].outside, bothFamilies[1].outside
	for _, object := range []string{"packet", "forward"} {
		for _, check := range []uint32{1, 0} {
			p := newPath(t, object, map[string]uint32{"redirect": 1, "source_check": check})
			for _, attach := range []uint8{Veth, Netkit, Bridge} {
				for _, a := range []netip.Addr{own, own6} {
					p.pod(a, attach, 10)
				}
				for _, a := range []netip.Addr{others, others6} {
					e := p.pod(a, attach, 20)
					e.Ifindex = 77
					p.put("endpoints", AddressOf(a), e)
				}
				for _, c := range sourcesOf([6]byte{2, 0, 0, 0, 1, 10}, own, own6, others, others6, foreign, foreign6) {
					before := p.counted("spoofed")
					ret, _ := p.run("from_pod", c.in, skb{})
					dropped := c.drop && check == 1
					if (ret == shot) != dropped || (p.counted("spoofed") > before) != dropped {
						t.Errorf("%s, check %d, attachment %d: %s: from_pod says %d", object, check, attach, c.name, int32(ret))
					}
				}
			}
			if object == "packet" {
				continue // the same code
			}
			mac := [6]byte{2, 0, 0, 0, 1, 40}
			for _, a := range []netip.Addr{own, own6} {
				p.pod(a, Macvlan, 40)
			}
			for _, a := range []netip.Addr{others, others6} {
				p.pod(a, Macvlan, 41)
			}
			p.put("macs", macKey(mac), uint32(1))
			p.put("macs", macKey([6]byte{2, 0, 0, 0, 1, 42}), uint32(77))
			for _, program := range []string{"uplink_ingress", "uplink_egress"} {
				for _, c := range sourcesOf(mac, own, own6, others, others6, foreign, foreign6) {
					ret, _ := p.run(program, c.in, skb{})
					if dropped := c.drop && check == 1; (ret == shot) != dropped {
						t.Errorf("check %d: %s: %s says %d", check, c.name, program, int32(ret))
					}
				}
				// Strangers' frames, of which some have no right MAC and some no right length.
				for _, smac := range [][6]byte{{2, 9, 9, 9, 9, 9}, {0x52, 0x54, 0, 1, 2, 3}, {2, 0, 0, 0, 1, 42}, {0, 1, 2, 3, 4, 5}} {
					for _, c := range sourcesOf(smac, foreign, foreign6, foreign, foreign6, foreign, foreign6) {
						if ret, _ := p.run(program, c.in, skb{}); ret != pass {
							t.Errorf("stranger %x, %s: %s says %d", smac, c.name, program, int32(ret))
						}
					}
				}
			}
		}
	}
}

func macKey(mac [6]byte) uint64 {
	return binary.LittleEndian.Uint64(append(mac[:], 0, 0))
}

// An ipvlan pod has the uplink's MAC, as the node has: it is told apart by what only it would do.
func TestSourceIPvlan(t *testing.T) {
	p := newPath(t, "forward", all)
	for _, h := range bothFamilies {
		p.pod(h.client, IPvlanL3, 0)
		p.pod(h.backend, Veth, 20)
		e := p.pod(h.other, IPvlanL2, 0)
		e.Ifindex = 77
		p.put("endpoints", AddressOf(h.other), e)
		for _, c := range []struct {
			name string
			src  netip.Addr
			from uint32 // the device that it came through
			want uint32
		}{
			{"own", h.client, 0, pass},
			{"a veth pod's", h.backend, 0, shot},
			{"a veth pod's, forwarded by the node", h.backend, 3, pass},
			{"of another uplink", h.other, 0, shot},
			{"the node's", h.outside, 0, pass},
		} {
			t.Run(h.name+" "+c.name, func(t *testing.T) {
				in := frame{src: on(c.src, 1), dst: on(h.outside, 2), proto: UDP}.bytes()
				q := &path{p.Collection, t}
				if ret, _ := q.run("uplink_egress", in, skb{IngressIfindex: c.from}); ret != c.want {
					t.Errorf("uplink_egress says %d", int32(ret))
				}
			})
		}
	}
}

// The pair by which an ipvlan-l3 pod reaches other attachments is told by the MAC of its end; nobody sends by it but the pod.
func TestSourceDetour(t *testing.T) {
	for _, check := range []uint32{1, 0} {
		p := newPath(t, "forward", map[string]uint32{"redirect": 1, "source_check": check})
		own, end, other := byte(60), [6]byte{2, 0, 0, 0, 2, 60}, [6]byte{2, 0, 0, 0, 2, 61}
		for _, h := range bothFamilies {
			p.pod(h.client, IPvlanL3, own)
			p.pod(h.other, IPvlanL3, 61)
			p.pod(h.backend, Veth, own)
		}
		for _, c := range []struct {
			name string
			src  netip.Addr
			to   [6]byte
			drop bool
		}{
			{"own", bothFamilies[0].client, end, false},
			{"own, IPv6", bothFamilies[1].client, end, false},
			{"link-local", netip.MustParseAddr("fe80::2"), end, false},
			{"of another ipvlan pod", bothFamilies[0].other, end, true},
			{"of another ipvlan pod, IPv6", bothFamilies[1].other, end, true},
			{"of another ipvlan pod, to its end", bothFamilies[0].other, other, false}, // where it is, or else the stack drops it
			{"to all", bothFamilies[0].client, [6]byte{255, 255, 255, 255, 255, 255}, true},
			{"a veth pod's", bothFamilies[0].backend, end, true},
			{"nobody's", bothFamilies[0].outside, end, true},
			{"nobody's, IPv6", bothFamilies[1].outside, end, true},
			{"loopback", netip.MustParseAddr("127.0.0.1"), end, true},
		} {
			before := p.counted("spoofed")
			dst := bothFamilies[0].outside
			if c.src.Is6() {
				dst = bothFamilies[1].outside
			}
			ret, _ := p.run("detour_ingress", frame{src: on(c.src, 1), dst: on(dst, 2), proto: UDP, dmac: c.to}.bytes(), skb{})
			dropped := c.drop && check == 1
			if (ret == shot) != dropped || (p.counted("spoofed") > before) != dropped {
				t.Errorf("check %d: %s: detour_ingress says %d", check, c.name, int32(ret))
			}
		}
		arp := arpFrame([6]byte{2, 0, 0, 0, 1, own}, bothFamilies[0].client, bothFamilies[0].backend)
		if ret, _ := p.run("detour_ingress", arp, skb{}); ret != pass {
			t.Errorf("check %d: ARP: detour_ingress says %d", check, int32(ret))
		}
	}
}
