package service

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
)

func one(t *testing.T, h *host.Host, base string) host.BPFMap {
	t.Helper()
	ms, err := h.BPFMaps(base)
	if err != nil || len(ms) != 1 {
		t.Fatalf("maps %s: %v, %v", base, ms, err)
	}
	return ms[0]
}

func put[K, V any](t *testing.T, m host.BPFMap, k K, v V) {
	t.Helper()
	if err := m.Put(&k, &v); err != nil {
		t.Fatal(err)
	}
}

// remember plays the data path: flows, sockets and affinities of a client to a backend of a service.
func remember(t *testing.T, h *host.Host, s Service, client uint16, backend resource.Backend) {
	t.Helper()
	proto := number(protocols[:], s.Protocol)
	vip, at := bpf.AddressOf(s.Address), bpf.AddressOf(backend.Address)
	src, sport := bpf.AddressOf(netip.MustParseAddr("10.1.1.1")), bpf.PortOf(client)
	service, id := HashID(s.Address, s.Port, s.Protocol), HashID(backend.Address, backend.Port, s.Protocol)
	put(t, one(t, h, "flows"), bpf.FlowKey{Src: src, Dst: vip, Sport: sport, Dport: bpf.PortOf(s.Port), Proto: proto},
		bpf.Flow{Addr: at, Service: service, Backend: id, Port: bpf.PortOf(backend.Port), Kind: bpf.FlowForward})
	put(t, one(t, h, "flows"), bpf.FlowKey{Src: at, Dst: src, Sport: bpf.PortOf(backend.Port), Dport: sport, Proto: proto},
		bpf.Flow{Addr: vip, Service: service, Backend: id, Port: bpf.PortOf(s.Port), Kind: bpf.FlowReverse})
	peer := bpf.Peer{Service: service, Backend: id}
	put(t, one(t, h, "sock_forward"), bpf.PeerKey{Cookie: uint64(client), Addr: vip, Proto: proto}, peer)
	put(t, one(t, h, "sock_reverse"), bpf.PeerKey{Cookie: uint64(client), Addr: at, Proto: proto}, peer)
	if s.Affinity > 0 {
		put(t, one(t, h, "affinities"), bpf.AffinityKey{Service: service, Client: src}, bpf.Affinity{Backend: id})
	}
}

// remembered counts what the data path remembers, by map.
func remembered(t *testing.T, h *host.Host) map[string]int {
	t.Helper()
	n := map[string]int{}
	count := func(base string, err error) {
		if err != nil {
			t.Fatal(base, err)
		}
	}
	count("flows", bpf.Each(one(t, h, "flows").Map, func(bpf.FlowKey, bpf.Flow) { n["flows"]++ }))
	count("sock_forward", bpf.Each(one(t, h, "sock_forward").Map, func(bpf.PeerKey, bpf.Peer) { n["sock_forward"]++ }))
	count("sock_reverse", bpf.Each(one(t, h, "sock_reverse").Map, func(bpf.PeerKey, bpf.Peer) { n["sock_reverse"]++ }))
	count("affinities", bpf.Each(one(t, h, "affinities").Map, func(bpf.AffinityKey, bpf.Affinity) { n["affinities"]++ }))
	return n
}

// UDP flows to a backend that goes are forgotten, of that service and backend alone; those of TCP stay.
func TestForget(t *testing.T) {
	a, b := backend("10.0.0.1:53", 1, resource.Active), backend("10.0.0.2:53", 1, resource.Active)
	leaving, heavy := backend("10.0.0.2:53", 0, resource.Terminating), backend("10.0.0.2:53", 3, resource.Active)
	udp := func(bs ...resource.Backend) Service {
		return frontend("10.96.0.1:53", "UDP", resource.Random, bs...).sticky(time.Minute)
	}
	tcp := func(bs ...resource.Backend) Service { return frontend("10.96.0.1:53", "TCP", resource.Random, bs...) }
	other := frontend("10.96.0.2:53", "UDP", resource.Random, a, b)
	for name, c := range map[string]struct {
		to   []Service
		want map[string]int
	}{
		"nothing":          {[]Service{udp(a, b), tcp(a, b), other}, map[string]int{"flows": 12, "sock_forward": 6, "sock_reverse": 6, "affinities": 1}},
		"drained":          {[]Service{udp(a, leaving), tcp(a), other}, map[string]int{"flows": 12, "sock_forward": 6, "sock_reverse": 6, "affinities": 1}},
		"heavier":          {[]Service{udp(a, heavy), tcp(a, heavy), other}, map[string]int{"flows": 12, "sock_forward": 6, "sock_reverse": 6, "affinities": 1}},
		"removed":          {[]Service{udp(a), tcp(a), other}, map[string]int{"flows": 10, "sock_forward": 5, "sock_reverse": 5, "affinities": 1}},
		"service removed":  {[]Service{tcp(a), other}, map[string]int{"flows": 8, "sock_forward": 4, "sock_reverse": 4}},
		"affinity removed": {[]Service{udp(a, b).sticky(0), tcp(a), other}, map[string]int{"flows": 12, "sock_forward": 6, "sock_reverse": 6}},
		"all removed":      {nil, map[string]int{"flows": 4, "sock_forward": 2, "sock_reverse": 2}},
	} {
		t.Run(name, func(t *testing.T) {
			h := kindtest.Root(t)
			mapsOf(t, h, sizes)
			from := []Service{udp(a, b), tcp(a, b), other}
			start := func() {
				t.Helper()
				if err := apply(h, from, asTheyCome); err != nil {
					t.Fatal(err)
				}
				for i, s := range from {
					remember(t, h, s, uint16(1000+2*i), a)
					remember(t, h, s, uint16(1001+2*i), b)
				}
			}
			start()
			if err := apply(h, c.to, asTheyCome); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, remembered(t, h)); d != "" {
				t.Errorf("remembered (-want +got):\n%s", d)
			}
			// Killed before any of the writes, the next apply forgets the same. Affinities of what is gone may stay: they
			// are of no use to anybody, and their map is one that forgets by itself.
			for n := 1; ; n++ {
				start()
				k, err := host.Open(h.Options)
				if err != nil {
					t.Fatal(err)
				}
				err = applyUntil(k, c.to, asTheyCome, n)
				done := k.Writes() < n
				k.Close()
				if err == nil {
					err = apply(h, c.to, asTheyCome)
				}
				if err != nil {
					t.Fatal(err)
				}
				got := remembered(t, h)
				delete(got, "affinities")
				want := map[string]int{"flows": c.want["flows"], "sock_forward": c.want["sock_forward"], "sock_reverse": c.want["sock_reverse"]}
				if d := cmp.Diff(want, got); d != "" {
					t.Fatalf("killed before write %d, remembered (-want +got):\n%s", n, d)
				}
				if done {
					break
				}
			}
		})
	}
}

// A UDP socket that is connected to a backend that goes is told; others aren't.
func TestConnectedSocket(t *testing.T) {
	for _, c := range []struct{ name, network, backend string }{
		{"IPv4", "udp4", "127.0.0.1"},
		{"IPv6", "udp6", "::1"},
		{"v4-mapped", "udp6", "127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := kindtest.Root(t)
			mapsOf(t, h, sizes)
			ns, err := h.NS("")
			if err != nil {
				t.Fatal(err)
			}
			var clients [2]int
			var server *net.UDPConn
			if err := ns.Do(func() (err error) {
				if server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(c.backend), 0))); err != nil {
					return err
				}
				to := server.LocalAddr().(*net.UDPAddr).AddrPort()
				for i := range clients {
					if clients[i], err = dialUDP(c.network == "udp6", to); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			defer server.Close()
			defer unix.Close(clients[0])
			defer unix.Close(clients[1])

			at := server.LocalAddr().(*net.UDPAddr).AddrPort()
			b := resource.Backend{Address: at.Addr().Unmap(), Port: at.Port(), Weight: 1, State: resource.Active}
			s := Service{Frontend: resource.Frontend{Address: netip.MustParseAddr("10.96.0.1"), Port: 53, Protocol: "UDP", Algorithm: resource.Random,
				Backends: []resource.Backend{b}}}
			if err := apply(h, []Service{s}, asTheyCome); err != nil {
				t.Fatal(err)
			}
			cookie, err := unix.GetsockoptUint64(clients[0], unix.SOL_SOCKET, unix.SO_COOKIE)
			if err != nil {
				t.Fatal(err)
			}
			put(t, one(t, h, "sock_reverse"), bpf.PeerKey{Cookie: cookie, Proto: bpf.UDP},
				bpf.Peer{Service: HashID(s.Address, s.Port, "UDP"), Backend: HashID(b.Address, b.Port, "UDP")})
			s.Backends = nil
			if err := apply(h, []Service{s}, asTheyCome); err != nil {
				t.Fatal(err)
			}
			if w := h.Warnings(); len(w) > 0 {
				t.Skipf("this kernel can't: %q", w)
			}
			for i, want := range []error{unix.ECONNABORTED, unix.EAGAIN} {
				if _, _, err := unix.Recvfrom(clients[i], make([]byte, 1), unix.MSG_DONTWAIT); !errors.Is(err, want) {
					t.Errorf("client %d: %v, want %v", i, err, want)
				}
			}
		})
	}
}

// dialUDP connects a socket, through IPv6 to IPv4 as well.
func dialUDP(v6 bool, to netip.AddrPort) (int, error) {
	family := unix.AF_INET
	var sa unix.Sockaddr
	if !v6 {
		sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().Unmap().As4()}
	} else {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.Connect(fd, sa); err != nil {
		unix.Close(fd)
		return 0, fmt.Errorf("connect to %v: %w", to, err)
	}
	return fd, nil
}
