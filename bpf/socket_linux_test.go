package bpf

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/kindtest"
)

var (
	backends4 = [...]netip.AddrPort{ap("10.0.0.1:8080"), ap("10.0.0.2:8080"), ap("10.0.0.3:8080")}
	backends6 = [...]netip.AddrPort{ap("[fd00::1]:8080"), ap("[fd00::2]:8080"), ap("[fd00::3]:8080")}
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// family is a kind of client: its sockets, and what they talk to. The addresses of services are nowhere, so that whoever
// reaches one has been translated.
type family struct {
	name     string
	sockets  int
	front    netip.AddrPort
	backends [3]netip.AddrPort
}

var families = []family{
	{"v4", unix.AF_INET, ap("10.96.0.1:80"), backends4},
	{"v6", unix.AF_INET6, ap("[fd00:96::1]:80"), backends6},
	{"mapped", unix.AF_INET6, ap("10.96.0.1:80"), backends4},
}

// another is the same address with another port.
func another(at netip.AddrPort, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(at.Addr(), port)
}

// TestSocket has real sockets talk to services, by each way to have the programs.
func TestSocket(t *testing.T) {
	kindtest.NeedRoot(t)
	err := features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval)
	if err != nil && !errors.Is(err, ebpf.ErrNotSupported) {
		t.Fatal(err)
	}
	for _, v := range []variant{
		{name: "now", load: loadSocket, retval: err == nil},
		{name: "no retval", load: loadSocket},
		{name: "old", load: loadSocket_all, legacy: true, without: "getpeername4 getpeername6 sock_release"},
	} {
		t.Run(v.name, func(t *testing.T) {
			w := newWorld(t, v)
			for _, c := range []struct {
				name string
				run  func(*testing.T, *world, family)
			}{
				{"connect", connects}, {"other port", otherPort}, {"no backend", noBackend}, {"unconnected", unconnected},
				{"many", many}, {"connect again", reconnect}, {"disconnect", disconnects}, {"direct", direct},
				{"affinity", affinity}, {"algorithms", algorithms}, {"maglev", maglev}, {"stranger", stranger},
				{"terminating", terminating}, {"hairpin", hairpin},
			} {
				for _, f := range families {
					t.Run(c.name+" "+f.name, func(t *testing.T) {
						w.clear(t)
						c.run(t, w, f)
					})
				}
			}
		})
	}
}

// A connected socket reaches a backend and believes in the service.
func connects(t *testing.T, w *world, f family) {
	for _, proto := range []uint8{TCP, UDP} {
		w.serve(t, front{at: f.front, proto: proto, slots: f.backends[:]})
		var open3 []*sock
		for range 3 {
			s := open(t, w.pod, f.sockets, proto)
			s.mustConnect(f.front)
			open3 = append(open3, s)
		}
		for _, s := range open3 {
			said := s.ask(f.front)
			if !slices.Contains(f.backends[:], said) {
				t.Errorf("%v answers for %v", said, f.front)
			}
			w.believes(t, s, f.front, said)
			if a := s.local().Addr(); !a.IsValid() || a.IsUnspecified() || a == f.front.Addr() {
				t.Errorf("the socket's own address is %v", a)
			}
			connected, ok := w.reverse(t, PeerKey{Cookie: s.cookie, Proto: proto})
			if !ok || connected.Service != id(proto, f.front) || connected.Backend != id(proto, said) {
				t.Errorf("of a connection to %v: %+v, %v", said, connected, ok)
			}
			s.close()
		}
		if left := w.count(t, "sock_reverse"); left != 0 && w.releases() {
			t.Errorf("closed sockets leave %d entries", left)
		}
		w.clear(t)
	}
}

// releases says whether closed sockets are noticed.
func (w *world) releases() bool { return w.without == "" }

// believes checks what a socket takes for its peer; without the program it is the backend.
func (w *world) believes(t *testing.T, s *sock, front, backend netip.AddrPort) {
	t.Helper()
	if w.without != "" {
		front = backend
	}
	if p, err := s.peer(); err != nil || p != front {
		t.Errorf("connected to %v, not %v (%v)", p, front, err)
	}
}

func (w *world) reverse(t *testing.T, key PeerKey) (p Peer, ok bool) {
	t.Helper()
	err := w.Maps["sock_reverse"].Lookup(key, &p)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Fatal(err)
	}
	return p, err == nil
}

func (w *world) count(t *testing.T, name string) (n int) {
	t.Helper()
	entries := w.Maps[name].Iterate()
	var key, value []byte
	for entries.Next(&key, &value) {
		n++
	}
	if err := entries.Err(); err != nil {
		t.Fatal(err)
	}
	return n
}

// Only the service's ports are its own, and only of its protocol.
func otherPort(t *testing.T, w *world, f family) {
	w.serve(t, front{at: f.front, proto: TCP, slots: f.backends[:]})
	// The address is nowhere, so what isn't translated finds no route.
	for _, c := range []struct {
		proto uint8
		to    netip.AddrPort
	}{{TCP, another(f.front, 81)}, {UDP, f.front}} {
		if err := open(t, w.pod, f.sockets, c.proto).connect(c.to); !errors.Is(err, unix.ENETUNREACH) {
			t.Errorf("connect to %v: %v", c.to, err)
		}
	}
	if err := open(t, w.pod, f.sockets, UDP).sendto(f.front); !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("send to %v: %v", f.front, err)
	}
	if n := w.count(t, "sock_reverse") + w.count(t, "sock_forward"); n != 0 {
		t.Errorf("%d entries of sockets that talk to no service", n)
	}
	// Of an address with a service and a listener of its own, too.
	w.serve(t, front{at: another(f.backends[0], 80), proto: TCP, slots: f.backends[1:2]})
	for at, want := range map[netip.AddrPort]netip.AddrPort{f.backends[0]: f.backends[0], another(f.backends[0], 80): f.backends[1]} {
		s := open(t, w.pod, f.sockets, TCP)
		s.mustConnect(at)
		if said := s.ask(at); said != want {
			t.Errorf("%v answers at %v", said, at)
		}
	}
}

// Nobody there is an error at once, and a service that gets a backend answers.
func noBackend(t *testing.T, w *world, f family) {
	w.serve(t, front{at: f.front, proto: TCP})
	w.serve(t, front{at: f.front, proto: UDP})
	s := open(t, w.pod, f.sockets, TCP)
	if err := s.connect(f.front); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("TCP: %v", err)
	}
	// By a program that doesn't wait.
	s = open(t, w.pod, f.sockets, TCP)
	if err := unix.SetNonblock(s.fd, true); err != nil {
		t.Fatal(err)
	}
	err := s.connect(f.front)
	if errors.Is(err, unix.EINPROGRESS) {
		if err := again(func() error {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}, int(patience.Milliseconds()))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		errno, _ := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		err = unix.Errno(errno)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("TCP without waiting: %v", err)
	}

	s = open(t, w.pod, f.sockets, UDP)
	err = s.connect(f.front)
	if !w.retval {
		// The answer to the first datagram says it.
		if err != nil {
			t.Fatalf("UDP: %v", err)
		}
		nobody := ap("127.0.0.1:1")
		if f.front.Addr().Is6() {
			nobody = ap("[::1]:1")
		}
		w.believes(t, s, f.front, nobody)
		if err = s.send(); err == nil {
			_, _, err = s.receive()
		}
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("UDP: %v", err)
	}

	s = open(t, w.pod, f.sockets, UDP)
	want := unix.ECONNREFUSED
	if !w.retval {
		want = unix.EPERM // what an older kernel can say of a single datagram
	}
	if err := s.sendto(f.front); !errors.Is(err, want) {
		t.Errorf("a datagram: %v", err)
	}

	w.serve(t, front{at: f.front, proto: TCP, slots: f.backends[:1]})
	w.serve(t, front{at: f.front, proto: UDP, slots: f.backends[:1]})
	if said := s.askAt(f.front); said != f.backends[0] {
		t.Errorf("%v answers", said)
	}
	for _, proto := range []uint8{TCP, UDP} {
		s := open(t, w.pod, f.sockets, proto)
		s.mustConnect(f.front)
		s.ask(f.front)
		w.believes(t, s, f.front, f.backends[0])
	}
}

// The datagrams of an unconnected socket stay with one backend as long as user space leaves the entry.
func unconnected(t *testing.T, w *world, f family) {
	w.serve(t, front{at: f.front, proto: UDP, algorithm: RoundRobin, slots: f.backends[:]})
	first, second := open(t, w.pod, f.sockets, UDP), open(t, w.pod, f.sockets, UDP)
	a, b := first.askAt(f.front), second.askAt(f.front)
	if a != f.backends[0] || b != f.backends[1] {
		t.Errorf("first answers come from %v and %v", a, b)
	}
	for range 10 {
		if said := first.askAt(f.front); said != a {
			t.Fatalf("%v answers after %v", said, a)
		}
		if said := second.askAt(f.front); said != b {
			t.Fatalf("%v answers after %v", said, b)
		}
	}
	key := PeerKey{Cookie: first.cookie, Addr: AddressOf(f.front.Addr()), Port: PortOf(f.front.Port()), Proto: UDP}
	var kept Peer
	if err := w.Maps["sock_forward"].Lookup(key, &kept); err != nil {
		t.Fatal(err)
	}
	if want := (Peer{Addr: AddressOf(a.Addr()), Port: PortOf(a.Port()), Service: id(UDP, f.front), Backend: id(UDP, a)}); kept != want {
		t.Errorf("kept %+v, not %+v", kept, want)
	}
	if err := w.Maps["sock_forward"].Delete(key); err != nil {
		t.Fatal(err)
	}
	if said := first.askAt(f.front); said != f.backends[2] {
		t.Errorf("%v answers when the entry is gone", said)
	}
	// An entry that was evicted comes back with the next datagram.
	key.Addr, key.Port = AddressOf(b.Addr()), PortOf(b.Port())
	key.Cookie = second.cookie
	if err := w.Maps["sock_reverse"].Delete(key); err != nil {
		t.Fatal(err)
	}
	second.askAt(f.front)
}

// A hundred destinations of one socket, all under way at once.
func many(t *testing.T, w *world, f family) {
	behind := map[netip.AddrPort]netip.AddrPort{}
	s := open(t, w.pod, f.sockets, UDP)
	for i := range uint16(100) {
		from, to := another(f.front, 1000+i), another(f.backends[0], 20000+i)
		listen(t, w.pod, to)
		behind[from] = to
		w.serve(t, front{at: from, proto: UDP, slots: []netip.AddrPort{to}})
	}
	for from := range behind {
		if err := s.sendto(from); err != nil {
			t.Fatal(err)
		}
	}
	for range len(behind) {
		said, from, err := s.receive()
		if err != nil {
			t.Fatal(err)
		}
		if behind[from] != said {
			t.Errorf("%v answers as %v", said, from)
		}
		delete(behind, from)
	}
	if len(behind) != 0 {
		t.Errorf("%d services didn't answer", len(behind))
	}
}

// A UDP socket can be connected as often as one likes, and TCP's until it succeeds.
func reconnect(t *testing.T, w *world, f family) {
	second := another(f.front, 81)
	w.serve(t, front{at: f.front, proto: UDP, slots: f.backends[:1]})
	w.serve(t, front{at: second, proto: UDP, slots: f.backends[1:2]})
	s := open(t, w.pod, f.sockets, UDP)
	for range 2 {
		for _, to := range []struct{ front, backend netip.AddrPort }{
			{f.front, f.backends[0]}, {second, f.backends[1]}, {f.backends[1], f.backends[1]}, {f.front, f.backends[0]}, {f.backends[0], f.backends[0]},
		} {
			s.mustConnect(to.front)
			if said := s.ask(to.front); said != to.backend {
				t.Errorf("%v answers at %v", said, to.front)
			}
			w.believes(t, s, to.front, to.backend)
		}
	}
	// A datagram to somebody else doesn't change whom the socket is connected to.
	s.mustConnect(f.front)
	// Nor where the datagram goes, be only its address or only its port the peer's.
	for i, to := range []netip.AddrPort{second, another(f.front, f.backends[0].Port()), another(f.backends[0], 81)} {
		w.serve(t, front{at: to, proto: UDP, slots: f.backends[1:2]})
		if err := s.sendto(to); err != nil {
			t.Fatal(err)
		}
		if n := w.count(t, "sock_forward"); n != i+1 {
			t.Errorf("%d entries after a datagram to %v", n, to)
		}
	}
	w.believes(t, s, f.front, f.backends[0])
	s.ask(f.front)

	// The first backend refuses, the second answers.
	w.serve(t, front{at: f.front, proto: TCP, slots: []netip.AddrPort{another(f.backends[0], 1)}})
	c := open(t, w.pod, f.sockets, TCP)
	if err := c.connect(f.front); !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatalf("connect to nobody: %v", err)
	}
	w.serve(t, front{at: f.front, proto: TCP, slots: f.backends[1:2]})
	c.mustConnect(f.front)
	if said := c.ask(f.front); said != f.backends[1] {
		t.Errorf("%v answers", said)
	}
	w.believes(t, c, f.front, f.backends[1])
}

// After connect(AF_UNSPEC), which no program sees, a socket hears the truth.
func disconnects(t *testing.T, w *world, f family) {
	for _, proto := range []uint8{TCP, UDP} {
		w.serve(t, front{at: f.front, proto: proto, slots: f.backends[:1]})
		s := open(t, w.pod, f.sockets, proto)
		s.mustConnect(f.front)
		s.ask(f.front)
		s.disconnect()
		if p, err := s.peer(); !errors.Is(err, unix.ENOTCONN) {
			t.Errorf("disconnected, yet connected to %v (%v)", p, err)
		}
		if proto == UDP {
			to := []netip.AddrPort{f.backends[0], f.front, f.backends[0], f.front}
			if f.name == "mapped" && w.name == "old" {
				to = to[1:2] // whether the socket is connected can't be seen there
			}
			for _, to := range to { // one backend: disconnected sockets of IPv6 still hear nobody else
				s.askAt(to)
			}
		}
		s.mustConnect(f.backends[0])
		s.ask(f.backends[0])
		w.believes(t, s, f.backends[0], f.backends[0])
		s.close()
	}
}

// A backend that is talked to by its own address answers by it, and for each service as that.
func direct(t *testing.T, w *world, f family) {
	second := another(f.front, 81)
	w.serve(t, front{at: f.front, proto: UDP, slots: f.backends[:1]})
	w.serve(t, front{at: second, proto: UDP, slots: f.backends[:1]})
	s := open(t, w.pod, f.sockets, UDP)
	for range 2 {
		for _, to := range []netip.AddrPort{f.backends[0], f.front, second, f.front, f.backends[1]} {
			s.askAt(to)
		}
	}
	for _, proto := range []uint8{TCP, UDP} {
		s := open(t, w.pod, f.sockets, proto)
		s.mustConnect(f.backends[0])
		s.ask(f.backends[0])
		w.believes(t, s, f.backends[0], f.backends[0])
	}
}

// Who isn't in a namespace of the node isn't touched; where the kernel can't tell, all of the cgroup is.
func stranger(t *testing.T, w *world, f family) {
	w.serve(t, front{at: f.front, proto: TCP, slots: f.backends[:]})
	w.serve(t, front{at: f.front, proto: UDP})
	want, refused := []error{unix.ENETUNREACH}, []error{unix.ENETUNREACH}
	if w.name == "old" {
		want, refused = []error{unix.ECONNREFUSED}, []error{unix.EPERM} // nobody listens there
	}
	if err := open(t, w.stranger, f.sockets, TCP).connect(f.front); !errors.Is(err, want[0]) {
		t.Errorf("connect: %v", err)
	}
	if err := open(t, w.stranger, f.sockets, UDP).sendto(f.front); !errors.Is(err, refused[0]) {
		t.Errorf("send: %v", err)
	}
}

// A service that takes nobody new goes on for the sockets that it has.
func terminating(t *testing.T, w *world, f family) {
	w.serve(t, front{at: f.front, proto: UDP, slots: f.backends[:1]})
	unconnected, connected := open(t, w.pod, f.sockets, UDP), open(t, w.pod, f.sockets, UDP)
	connected.mustConnect(f.front)
	unconnected.askAt(f.front)
	w.serve(t, front{at: f.front, proto: UDP, behind: f.backends[:1]})
	unconnected.askAt(f.front)
	connected.ask(f.front)
	if err := open(t, w.pod, f.sockets, UDP).sendto(f.front); err == nil {
		t.Error("a new socket was taken")
	}
}

// A pod reaches itself by its service, from the address that it is reached at.
func hairpin(t *testing.T, w *world, f family) {
	for _, proto := range []uint8{TCP, UDP} {
		w.serve(t, front{at: f.front, proto: proto, slots: f.backends[:1]})
		s := open(t, w.pod, f.sockets, proto)
		if err := unix.Bind(s.fd, s.sockaddr(another(f.backends[0], 0))); err != nil {
			t.Fatal(err)
		}
		s.mustConnect(f.front)
		if said := s.ask(f.front); said != f.backends[0] || s.local().Addr() != f.backends[0].Addr() {
			t.Errorf("%v answers to %v", said, s.local())
		}
		w.believes(t, s, f.front, f.backends[0])
	}
}
