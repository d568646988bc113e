package service

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
)

// A connection is counted once: of a connected socket, of an unconnected one for each service, of a flow of packets that
// isn't over.
func TestReadConnections(t *testing.T) {
	h := kindtest.Root(t)
	mapsOf(t, h, sizes)
	a := bpf.AddressOf(netip.MustParseAddr("10.96.0.1"))
	to := bpf.Peer{Service: 1, Backend: 2}
	put(t, one(t, h, "sock_reverse"), bpf.PeerKey{Cookie: 1, Proto: bpf.TCP}, to)
	put(t, one(t, h, "sock_reverse"), bpf.PeerKey{Cookie: 2, Proto: bpf.UDP}, to)
	put(t, one(t, h, "sock_reverse"), bpf.PeerKey{Cookie: 2, Addr: a, Proto: bpf.UDP}, to) // the same socket
	put(t, one(t, h, "sock_reverse"), bpf.PeerKey{Cookie: 3, Proto: bpf.TCP}, bpf.Peer{Service: 1})
	put(t, one(t, h, "sock_forward"), bpf.PeerKey{Cookie: 4, Addr: a, Proto: bpf.UDP}, bpf.Peer{Service: 1, Backend: 3})
	for i, f := range []bpf.Flow{
		{Kind: bpf.FlowForward}, {Kind: bpf.FlowReverse}, {Kind: bpf.FlowHairpinForward}, {Kind: bpf.FlowHairpinReverse},
		{Kind: bpf.FlowForward, State: 1}, {Kind: bpf.FlowForward, State: 2}, {Kind: bpf.FlowForward, State: 1 | 2 | 4},
		{Kind: bpf.FlowForward, State: 8},
	} {
		f.Service, f.Backend = 5, 6
		put(t, one(t, h, "flows"), bpf.FlowKey{Src: a, Sport: bpf.PortOf(uint16(i))}, f)
	}
	got, err := ReadConnections(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	want := Connections{{1, 2}: 2, {1, 3}: 1, {5, 6}: 4}
	if len(got) != len(want) {
		t.Errorf("connections %v, want %v", got, want)
	}
	for p, n := range want {
		if got[p] != n {
			t.Errorf("%v has %d connections, want %d", p, got[p], n)
		}
	}
}

// An unconnected UDP socket counts until it is closed: its entry stays behind.
func TestClosedSocket(t *testing.T) {
	h := kindtest.Root(t)
	mapsOf(t, h, sizes)
	pin(t, h, "namespaces", 8)
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	for name, family := range map[string]int{"IPv4": unix.AF_INET, "IPv6": unix.AF_INET6} {
		t.Run(name, func(t *testing.T) {
			fd := -1
			if err := ns.Do(func() (err error) {
				if fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
					return err
				}
				if family == unix.AF_INET {
					return unix.Bind(fd, &unix.SockaddrInet4{})
				}
				return unix.Bind(fd, &unix.SockaddrInet6{})
			}); err != nil {
				t.Fatal(err)
			}
			cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_COOKIE)
			if err != nil {
				t.Fatal(err)
			}
			s := frontend("10.96.0.1:53", "UDP", resource.Random, backend("10.0.0.1:53", 1, resource.Active))
			put(t, one(t, h, "sock_forward"), bpf.PeerKey{Cookie: cookie, Addr: bpf.AddressOf(s.Address), Proto: bpf.UDP},
				bpf.Peer{Service: ID(s.Frontend), Backend: HashID(s.Backends[0].Address, 53, "UDP")})
			count := func() int {
				n, err := ReadConnections(t.Context(), h)
				if err != nil {
					t.Fatal(err)
				}
				return n.To(s.Frontend, s.Backends[0])
			}
			if n := count(); n != 1 {
				t.Errorf("%d connections while it is open", n)
			}
			unix.Close(fd)
			open, err := openSockets(t.Context(), h)
			if err != nil {
				t.Fatal(err)
			}
			if open == nil {
				kindtest.Lacks(t, "this kernel doesn't list UDP sockets")
			}
			if n := count(); n != 0 {
				t.Errorf("%d connections when it is closed", n)
			}
		})
	}
}

// When services leave the maps, those whose packets are being translated are cut.
func TestBusy(t *testing.T) {
	h := kindtest.Root(t)
	mapsOf(t, h, sizes)
	a := backend("10.0.0.1:80", 1, resource.Active)
	quiet, used := frontend("10.96.0.1:80", "TCP", resource.Random, a), frontend("10.96.0.2:80", "TCP", resource.Random, a)
	if err := apply(h, []Service{quiet, used}, asTheyCome); err != nil {
		t.Fatal(err)
	}
	remember(t, h, used, 1000, a)
	for _, c := range []struct {
		wanted []Service
		cut    resource.Disruption
	}{{nil, resource.DisruptsPod}, {[]Service{quiet}, resource.DisruptsNewFlows}} {
		owned, _, err := Ops{}.Observe(t.Context(), h, c.wanted)
		if err != nil || len(owned) != 2 {
			t.Fatalf("owned %v, %v", owned, err)
		}
		for _, s := range owned {
			want := resource.DisruptsNewFlows
			if s.ID() == used.ID() {
				want = c.cut
			}
			if got := s.Disruption(resource.Delete, s); got != want {
				t.Errorf("%d wanted, deleting %s disrupts %s, want %s", len(c.wanted), s.ID(), got, want)
			}
		}
	}
}
