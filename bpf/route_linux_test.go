package bpf

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/internal/netns"
)

// straightOut are the settings with which packets go past the stack both ways.
var straightOut = map[string]uint32{"redirect": 1, "source_check": 1, "host_routing": 1}

// router is a namespace with an uplink and routes, that the programs run in.
type router struct {
	*path
	ns *os.File
}

// far are addresses by the routes that lead to them.
type far struct{ routed, neighbour, elsewhere, nowhere, refused, own netip.Addr }

func farOf(v6 bool) far {
	if v6 {
		a := netip.MustParseAddr
		return far{a("2001:db8:9::9"), a("2001:db8::77"), a("2001:db8:1::1"), a("2001:db8:2::1"), a("2001:db8:3::1"), a("2001:db8::1")}
	}
	a := netip.MustParseAddr
	return far{a("8.8.8.8"), a("192.0.2.77"), a("198.51.100.1"), a("203.0.113.1"), a("203.0.113.129"), a("192.0.2.1")}
}

func newRouter(t *testing.T, object string, settings map[string]uint32) *router {
	t.Helper()
	r := &router{newPath(t, object, settings), kindtest.Namespace(t)}
	err := netns.Do(int(r.ns.Fd()), func() error { return r.furnish() })
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *router) furnish() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	index := map[string]int{}
	for _, name := range []string{"uplink", "other"} {
		veth := netlink.NewVeth(netlink.NewLinkAttrs())
		veth.Name, veth.PeerName = name, name+"-far"
		if err := h.LinkAdd(veth); err != nil {
			return err
		}
	}
	for _, name := range []string{"lo", "uplink", "uplink-far", "other", "other-far"} {
		l, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		if err := h.LinkSetUp(l); err != nil {
			return err
		}
		index[name] = l.Attrs().Index
	}
	for _, name := range []string{"ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"} {
		if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0); err != nil {
			return err
		}
	}
	for _, a := range []string{"192.0.2.1/24", "2001:db8::1/64"} {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		if err := h.AddrAdd(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index["uplink"]}}, addr); err != nil {
			return fmt.Errorf("address %s: %w", a, err)
		}
	}
	for _, v := range []struct{ all, gateway, elsewhere, nowhere, refused string }{
		{"0.0.0.0/0", "192.0.2.254", "198.51.100.0/24", "203.0.113.0/25", "203.0.113.128/25"},
		{"::/0", "2001:db8::fe", "2001:db8:1::/64", "2001:db8:2::/64", "2001:db8:3::/64"},
	} {
		gateway := netip.MustParseAddr(v.gateway)
		for _, route := range []netlink.Route{
			{LinkIndex: index["uplink"], Dst: prefix(netip.MustParsePrefix(v.all)), Gw: gateway.AsSlice()},
			{LinkIndex: index["other"], Dst: prefix(netip.MustParsePrefix(v.elsewhere))},
			{Type: unix.RTN_BLACKHOLE, Dst: prefix(netip.MustParsePrefix(v.nowhere))},
			{Type: unix.RTN_UNREACHABLE, Dst: prefix(netip.MustParsePrefix(v.refused))},
		} {
			if err := h.RouteAdd(&route); err != nil {
				return fmt.Errorf("route to %v: %w", route.Dst, err)
			}
		}
		family := netlink.FAMILY_V4
		if gateway.Is6() {
			family = netlink.FAMILY_V6
		}
		if err := h.NeighSet(&netlink.Neigh{LinkIndex: index["uplink"], Family: family, State: netlink.NUD_PERMANENT,
			IP: gateway.AsSlice(), HardwareAddr: net.HardwareAddr{2, 9, 9, 9, 9, 9}}); err != nil {
			return fmt.Errorf("neighbour %v: %w", gateway, err)
		}
	}
	// Programs are run as if packets had come by device 1, a pod's as well as an uplink.
	if err := r.Maps["uplinks"].Put(uint32(1), uint32(1500)); err != nil {
		return err
	}
	return r.Maps["uplinks"].Put(uint32(index["uplink"]), uint32(1500))
}

// run gives a frame to a program in the router's namespace.
func (r *router) run(program string, in frame) (ret uint32, out []byte) {
	r.t.Helper()
	return r.runBytes(program, in.bytes())
}

func (r *router) runBytes(program string, b []byte) (ret uint32, out []byte) {
	r.t.Helper()
	opts := ebpf.RunOptions{Data: b, DataOut: make([]byte, len(b)+512)}
	err := netns.Do(int(r.ns.Fd()), func() (err error) {
		ret, err = r.Programs[program].Run(&opts)
		return err
	})
	if err != nil {
		r.t.Fatalf("%s: %v", program, err)
	}
	return ret, opts.DataOut
}

// goes expects that a frame goes straight, with one hop less and nothing else changed but what change says.
func (r *router) goes(what, program string, in frame, change func(*frame)) {
	r.t.Helper()
	ret, out := r.run(program, in)
	if ret != redirect {
		r.t.Errorf("%s: %s says %d of %v", what, program, int32(ret), in)
		return
	}
	want := in
	want.hops = 63
	if in.hops != 0 {
		want.hops = in.hops - 1
	}
	want.extensions = 0
	if change != nil {
		change(&want)
	}
	got := readFrame(r.t, out)
	if got.extensions = 0; got != want {
		r.t.Errorf("%s: %s makes of it\n%+v, not\n%+v", what, program, got, want)
	}
}

// stays expects that the stack gets a frame as it is.
func (r *router) stays(what, program string, in frame) {
	r.t.Helper()
	if ret, out := r.run(program, in); ret != pass || string(out) != string(in.bytes()) {
		r.t.Errorf("%s: %s says %d of %v, and it becomes %x", what, program, int32(ret), in, out)
	}
}

// eachFamily runs a test with and without services, for IPv4 and IPv6. A veth pod, the client, sits on the device that all
// programs see.
func eachFamily(t *testing.T, settings map[string]uint32, test func(t *testing.T, r *router, h hosts, f far)) {
	for _, object := range []string{"packet", "forward"} {
		t.Run(object, func(t *testing.T) {
			r := newRouter(t, object, settings)
			for _, h := range bothFamilies {
				t.Run(h.name, func(t *testing.T) {
					q := &router{&path{r.Collection, t}, r.ns}
					for addr, attach := range map[netip.Addr]uint8{h.client: Veth, h.backend: Netkit, h.bridged: Bridge, h.other: Macvlan} {
						b := addr.As16()
						e := Endpoint{Ifindex: 1, Attach: attach, MAC: [6]byte{2, 0, 0, 0, 1, b[15]}} // all gateways are lo's MAC
						q.put("endpoints", AddressOf(addr), e)
					}
					test(t, q, h, farOf(h.client.Is6()))
				})
			}
		})
	}
}

// protocols are frames of each protocol that a pod may send to another host.
func protocols(src, dst netip.Addr) map[string]frame {
	from, to := on(src, 4000), on(dst, 80)
	return map[string]frame{
		"SYN":      {src: from, dst: to, proto: TCP, flags: syn},
		"segment":  {src: from, dst: to, proto: TCP, flags: ack, payload: "data"},
		"datagram": {src: from, dst: to, proto: UDP, payload: "data"},
		"echo":     {src: on(src, 7), dst: on(dst, 0), proto: ICMP, icmp: 8},
		"SCTP":     {src: on(src, 0), dst: on(dst, 0), proto: 132, payload: "01234567"},
	}
}

func TestLeave(t *testing.T) {
	eachFamily(t, straightOut, func(t *testing.T, r *router, h hosts, f far) {
		before := r.counted("routed")
		n := uint64(0)
		for _, from := range []netip.Addr{h.client, h.backend, h.bridged} {
			for _, to := range []netip.Addr{f.routed, f.neighbour} {
				for what, in := range protocols(from, to) {
					if what == "echo" {
						in.icmp = map[bool]uint8{false: 8, true: 128}[in.v6()]
					}
					r.goes(what, "from_pod", in, nil)
					n++
				}
			}
		}
		largest := frame{src: on(h.client, 4000), dst: on(f.routed, 80), proto: UDP, payload: strings.Repeat("x", 1500-28-map[bool]int{true: 20}[h.client.Is6()])}
		r.goes("the largest", "from_pod", largest, nil)
		if got := r.counted("routed") - before; got != n+1 {
			t.Errorf("counted %d of %d", got, n+1)
		}

		base := frame{src: on(h.client, 4000), dst: on(f.routed, 80), proto: UDP, payload: "data"}
		for what, change := range map[string]func(*frame){
			"its last hop":               func(in *frame) { in.hops = 1 },
			"too large":                  func(in *frame) { in.payload = strings.Repeat("x", 1600) },
			"not for the gateway":        func(in *frame) { in.dmac = [6]byte{2, 0, 0, 0, 0, 9} },
			"a device that is no uplink": func(in *frame) { in.dst = on(f.elsewhere, 80) },
			"a blackhole":                func(in *frame) { in.dst = on(f.nowhere, 80) },
			"refused by a route":         func(in *frame) { in.dst = on(f.refused, 80) },
			"the node itself":            func(in *frame) { in.dst = on(f.own, 80) },
			"a pod without a pair":       func(in *frame) { in.dst = on(h.other, 80) },
			"options": func(in *frame) {
				if in.options = 4; in.v6() {
					in.dst = on(netip.MustParseAddr("ff02::5"), 80)
				}
			},
			"multicast": func(in *frame) {
				in.dst = on(netip.MustParseAddr(map[bool]string{true: "ff0e::5", false: "239.1.1.1"}[in.v6()]), 80)
			},
			"this network": func(in *frame) {
				in.dst = on(netip.MustParseAddr(map[bool]string{true: "fe80::5", false: "0.1.1.1"}[in.v6()]), 80)
			},
		} {
			in := base
			change(&in)
			r.stays(what, "from_pod", in)
		}
		if h.client.Is6() {
			in := base
			in.src = on(netip.MustParseAddr("fe80::10"), 4000)
			r.stays("link-local", "from_pod", in)
		}
	})
}

// A service's backend may be another host: translated at its client's, both ways, and past the stack all the same.
func TestLeaveToBackend(t *testing.T) {
	r := newRouter(t, "packet", straightOut)
	for _, h := range bothFamilies {
		f := farOf(h.client.Is6())
		for _, proto := range []uint8{TCP, UDP} {
			e := Endpoint{Ifindex: 1, Attach: Veth, MAC: [6]byte{2, 0, 0, 0, 1, 10}}
			r.put("endpoints", AddressOf(h.client), e)
			client, vip, backend := on(h.client, 4000), on(h.vip, 80), on(f.routed, 8080)
			r.service(vip, proto, Frontend{}, backend)
			asked := frame{src: client, dst: vip, proto: proto, flags: map[uint8]uint8{TCP: syn}[proto], payload: "hello"}
			r.goes("to a service", "from_pod", asked, func(want *frame) { want.dst = backend })
			answer := frame{src: backend, dst: client, proto: proto, flags: map[uint8]uint8{TCP: syn | ack}[proto], payload: "welcome"}
			r.goes("its answer", "uplink_ingress", answer, func(want *frame) { want.src, want.dmac = vip, e.MAC })
		}
	}
}

func TestEnter(t *testing.T) {
	eachFamily(t, straightOut, func(t *testing.T, r *router, h hosts, f far) {
		before := r.counted("forwarded")
		n := uint64(0)
		for _, to := range []netip.Addr{h.client, h.backend, h.bridged} {
			for what, in := range protocols(f.routed, to) {
				if what == "echo" {
					in.icmp = map[bool]uint8{false: 8, true: 128}[in.v6()]
				}
				b := to.As16()
				r.goes(what, "uplink_ingress", in, func(want *frame) { want.dmac = [6]byte{2, 0, 0, 0, 1, b[15]} })
				n++
			}
		}
		if got := r.counted("forwarded") - before; got != n {
			t.Errorf("counted %d of %d", got, n)
		}
		base := frame{src: on(f.routed, 80), dst: on(h.client, 4000), proto: UDP, payload: "data"}
		for what, change := range map[string]func(*frame){
			"its last hop":                func(in *frame) { in.hops = 1 },
			"for another host":            func(in *frame) { in.dmac = [6]byte{2, 0, 0, 0, 0, 9} },
			"for no pod":                  func(in *frame) { in.dst = on(h.outside, 80) },
			"for a pod without a pair":    func(in *frame) { in.dst = on(h.other, 80) },
			"as from a pod of this node":  func(in *frame) { in.src = on(h.backend, 80) },
			"as from a pod on the uplink": func(in *frame) { in.src = on(h.other, 80) },
			"as from the receiver's loopback": func(in *frame) {
				in.src = on(netip.MustParseAddr(map[bool]string{true: "fe80::1", false: "127.0.0.1"}[in.v6()]), 80)
			},
			"for the node": func(in *frame) { in.dst = on(f.own, 80) },
		} {
			in := base
			change(&in)
			r.stays(what, "uplink_ingress", in)
		}
		in := base
		in.options, in.extensions = 4, 1
		b := in.bytes()
		if in.v6() {
			b[14+6] = 0 // for each hop
		}
		if ret, out := r.runBytes("uplink_ingress", b); ret != pass || string(out) != string(b) {
			t.Errorf("options: uplink_ingress says %d, and it becomes %x", int32(ret), out)
		}
	})
}

// What says that it comes from the node itself is the stack's to judge, where the node's addresses are known.
func TestEnterAsNode(t *testing.T) {
	four, six := farOf(false).own.As4(), farOf(true).own.As16()
	word := func(b []byte) uint32 { return binary.NativeEndian.Uint32(b) }
	settings := maps.Clone(straightOut)
	maps.Copy(settings, map[string]uint32{
		"masquerade": 1, "masquerade4": word(four[:]),
		"masquerade6_0": word(six[0:]), "masquerade6_1": word(six[4:]), "masquerade6_2": word(six[8:]), "masquerade6_3": word(six[12:]),
	})
	r := newRouter(t, "packet", settings)
	for _, h := range bothFamilies {
		f := farOf(h.client.Is6())
		r.put("endpoints", AddressOf(h.client), Endpoint{Ifindex: 1, Attach: Veth, MAC: [6]byte{2, 0, 0, 0, 1, 10}})
		in := frame{src: on(f.own, 80), dst: on(h.client, 4000), proto: UDP, payload: "data"}
		r.stays("as from the node", "uplink_ingress", in)
		in.src = on(f.neighbour, 80)
		r.goes("from its neighbour", "uplink_ingress", in, func(want *frame) { want.dmac = [6]byte{2, 0, 0, 0, 1, 10} })
	}
}

// A packet goes straight where uplinks has its device alone, and is within the MTU that stands there, whatever the device's own.
func TestUplinks(t *testing.T) {
	eachFamily(t, straightOut, func(t *testing.T, r *router, h hosts, f far) {
		var out uint32
		err := netns.Do(int(r.ns.Fd()), func() error {
			dev, err := net.InterfaceByName("uplink")
			if err == nil {
				out = uint32(dev.Index)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		leaving := frame{src: on(h.client, 4000), dst: on(f.routed, 80), proto: UDP, payload: strings.Repeat("x", 1300)}
		coming := frame{src: on(f.routed, 80), dst: on(h.client, 4000), proto: UDP, payload: "data"}
		size := uint32(len(leaving.bytes()) - 14)
		r.put("uplinks", out, size-1)
		r.stays("above the MTU", "from_pod", leaving)
		r.put("uplinks", out, size)
		r.goes("at the MTU", "from_pod", leaving, nil)
		for _, dev := range []uint32{1, out} {
			if err := r.Maps["uplinks"].Delete(dev); err != nil {
				t.Fatal(err)
			}
		}
		r.stays("no uplink", "from_pod", leaving)
		r.stays("no uplink", "uplink_ingress", coming)
		r.put("uplinks", out, uint32(1500))
		r.put("uplinks", uint32(1), uint32(1500))
		r.goes("an uplink", "uplink_ingress", coming, func(want *frame) {
			b := h.client.As16()
			want.dmac = [6]byte{2, 0, 0, 0, 1, b[15]}
		})
	})
}

// Without the setting all that leaves passes the stack, and all that comes.
func TestLegacyRouting(t *testing.T) {
	eachFamily(t, all, func(t *testing.T, r *router, h hosts, f far) {
		for what, in := range protocols(h.client, f.routed) {
			r.stays(what, "from_pod", in)
		}
		for what, in := range protocols(f.routed, h.client) {
			r.stays(what, "uplink_ingress", in)
		}
	})
}
