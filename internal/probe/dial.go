package probe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// connect makes a socket in a namespace and connects it. The caller closes it.
func connect(ctx context.Context, ns Namespace, kind, protocol int, to netip.AddrPort) (*os.File, error) {
	var at unix.Sockaddr
	family := unix.AF_INET
	if addr := to.Addr().Unmap(); addr.Is4() {
		at = &unix.SockaddrInet4{Addr: addr.As4(), Port: int(to.Port())}
	} else {
		family, at = unix.AF_INET6, &unix.SockaddrInet6{Addr: addr.As16(), Port: int(to.Port())}
	}
	fd := -1
	err := ns.Do(func() (err error) {
		fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
		return err
	})
	if err != nil {
		return nil, &socketError{err}
	}
	// The socket stays in the namespace, whichever thread uses it.
	err = unix.Connect(fd, at)
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		unix.Close(fd)
		return nil, err
	}
	s := os.NewFile(uintptr(fd), "socket")
	if err == nil {
		return s, nil
	}
	if err := connected(ctx, s); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// connected waits for a connection that is being made.
func connected(ctx context.Context, s *os.File) error {
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { s.SetWriteDeadline(time.Unix(1, 0)) })()
	var outcome error
	err = raw.Write(func(fd uintptr) (done bool) {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			outcome = err
		case code != 0:
			outcome = unix.Errno(code)
		default:
			// No error yet, or none: only the second has a peer.
			_, err := unix.Getpeername(int(fd))
			return err == nil
		}
		return true
	})
	return errors.Join(err, outcome)
}

// dial is connect for those that read and write.
func dial(ctx context.Context, ns Namespace, kind, protocol int, to netip.AddrPort) (net.Conn, error) {
	s, err := connect(ctx, ns, kind, protocol, to)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return net.FileConn(s) // of a copy
}

// socketError says that there is no socket, so nothing was asked.
type socketError struct{ err error }

func (e *socketError) Error() string { return fmt.Sprintf("make a socket: %v", e.err) }

func (e *socketError) Unwrap() error { return e.err }

// ask sends a request, again and again until the context ends, and gives what comes to take until that says that it is
// an answer. A datagram may get lost.
func ask(ctx context.Context, c net.Conn, request []byte, take func(answer []byte) (done bool, err error)) error {
	deadline, ok := ctx.Deadline()
	if !ok {
		return errors.New("ask for ever")
	}
	defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	pause := max(time.Until(deadline)/4, 20*time.Millisecond)
	held := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(held)
	buf := held[:]
	for {
		if _, err := c.Write(request); err != nil {
			return err
		}
		again := time.Now().Add(pause)
		if again.After(deadline) {
			again = deadline
		}
		if err := c.SetReadDeadline(again); err != nil {
			return err
		}
		for {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			n, err := read(c, buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			} else if err != nil {
				return err
			}
			if done, err := take(buf[:n]); done || err != nil {
				return err
			}
		}
		if !time.Now().Before(deadline) {
			return context.DeadlineExceeded
		}
	}
}

var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// read takes one datagram. Read of a raw IPv4 socket would leave the IP header in.
func read(c net.Conn, buf []byte) (int, error) {
	if ip, ok := c.(*net.IPConn); ok {
		n, _, err := ip.ReadFrom(buf)
		return n, err
	}
	return c.Read(buf)
}
