package bpf

import (
	"errors"
	"net/netip"
	"os"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/netns"
)

// sock is a client's socket.
type sock struct {
	t      testing.TB
	fd     int
	family int
	proto  uint8
	cookie uint64
}

func open(t testing.TB, ns *os.File, family int, proto uint8) *sock {
	t.Helper()
	s := &sock{t: t, family: family, proto: proto}
	kind := unix.SOCK_STREAM
	if proto == UDP {
		kind = unix.SOCK_DGRAM
	}
	err := netns.Do(int(ns.Fd()), func() (err error) {
		s.fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	if s.cookie, err = unix.GetsockoptUint64(s.fd, unix.SOL_SOCKET, unix.SO_COOKIE); err != nil {
		t.Fatal(err)
	}
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		wait := unix.NsecToTimeval(patience.Nanoseconds())
		if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, option, &wait); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *sock) close() {
	if s.fd >= 0 {
		unix.Close(s.fd)
	}
	s.fd = -1
}

func (s *sock) sockaddr(a netip.AddrPort) unix.Sockaddr {
	if s.family == unix.AF_INET {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// addrPort is what the kernel told; a socket of IPv6 must hear of IPv4 in mapped addresses.
func (s *sock) addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		if s.family == unix.AF_INET {
			return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
		}
	case *unix.SockaddrInet6:
		if s.family == unix.AF_INET6 {
			return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
		}
	case nil:
		return netip.AddrPort{}
	}
	s.t.Helper()
	s.t.Errorf("address %v for a socket of family %d", sa, s.family)
	return netip.AddrPort{}
}

// again repeats a system call that the Go runtime's own signals break off.
func again(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (s *sock) connect(to netip.AddrPort) error {
	return again(func() error { return unix.Connect(s.fd, s.sockaddr(to)) })
}

func (s *sock) mustConnect(to netip.AddrPort) {
	s.t.Helper()
	if err := s.connect(to); err != nil {
		s.t.Fatalf("connect to %v: %v", to, err)
	}
}

func (s *sock) sendto(to netip.AddrPort) error {
	return again(func() error { return unix.Sendto(s.fd, []byte("hello"), 0, s.sockaddr(to)) })
}

func (s *sock) send() error {
	return again(func() error { return unix.Send(s.fd, []byte("hello"), 0) })
}

// receive returns who answered, by its own words, and who it is to the program.
func (s *sock) receive() (said, from netip.AddrPort, err error) {
	buf := make([]byte, 64)
	var n int
	var sa unix.Sockaddr
	err = again(func() error {
		n, sa, err = unix.Recvfrom(s.fd, buf, 0)
		return err
	})
	if err != nil {
		return said, from, err
	}
	from = s.addrPort(sa)
	said, err = netip.ParseAddrPort(string(buf[:n]))
	return said, from, err
}

// ask sends what makes the peer of a connected socket answer, and expects the sender's address if it is UDP.
func (s *sock) ask(from netip.AddrPort) (said netip.AddrPort) {
	s.t.Helper()
	if s.proto == UDP {
		if err := s.send(); err != nil {
			s.t.Fatalf("send: %v", err)
		}
	}
	return s.expect(from)
}

// askAt does the same by an unconnected socket.
func (s *sock) askAt(to netip.AddrPort) (said netip.AddrPort) {
	s.t.Helper()
	if err := s.sendto(to); err != nil {
		s.t.Fatalf("send to %v: %v", to, err)
	}
	return s.expect(to)
}

func (s *sock) expect(want netip.AddrPort) netip.AddrPort {
	s.t.Helper()
	said, from, err := s.receive()
	if err != nil {
		s.t.Fatalf("receive: %v", err)
	}
	if s.proto == UDP && from != want {
		s.t.Errorf("answer from %v, not %v", from, want)
	}
	return said
}

// peer is what the program believes to be connected to.
func (s *sock) peer() (netip.AddrPort, error) {
	sa, err := unix.Getpeername(s.fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return s.addrPort(sa), nil
}

func (s *sock) local() netip.AddrPort {
	s.t.Helper()
	sa, err := unix.Getsockname(s.fd)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.addrPort(sa)
}

// disconnect is connect() to no family.
func (s *sock) disconnect() {
	s.t.Helper()
	var none unix.RawSockaddrInet4 // family 0, which x/sys has no type for
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(s.fd), uintptr(unsafe.Pointer(&none)), unix.SizeofSockaddrInet4)
	if errno != 0 {
		s.t.Fatalf("disconnect: %v", errno)
	}
}
