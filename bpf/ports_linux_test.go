package bpf

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestOnePort connects by one port to a service and to its backend itself.
func TestOnePort(t *testing.T) {
	eachWay(t, func(t *testing.T, p pods, client, front, behind netip.AddrPort) {
		p.echoing(t, behind)
		held, err := p.dialFrom(t, client, front)
		if err != nil {
			t.Fatal(err)
		}
		echoes(t, held)
		if c, err := p.dialFrom(t, client, behind); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a second connection: %v %v, want %v", c, err, syscall.ECONNREFUSED)
		}
		echoes(t, held)
		closed(t, held)
		direct, err := p.dialFrom(t, client, behind)
		if err != nil {
			t.Fatal(err)
		}
		echoes(t, direct)
		closed(t, direct)
		// It had the port for the service before, and has it again.
		if held, err = p.dialFrom(t, client, front); err != nil {
			t.Fatal(err)
		}
		echoes(t, held)
		closed(t, held)
	})
}

// dialFrom connects from a port that other connections have, or had.
func (p pods) dialFrom(t *testing.T, from, to netip.AddrPort) (c net.Conn, err error) {
	t.Helper()
	d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: net.TCPAddrFromAddrPort(from)}
	d.Control = func(_, _ string, raw syscall.RawConn) (err error) {
		if cerr := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		}); cerr != nil {
			return cerr
		}
		return err
	}
	p.within(t, p.client, func(*netlink.Handle) error {
		c, err = d.Dial("tcp", to.String())
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	return c, c.SetDeadline(time.Now().Add(10 * time.Second))
}

// echoing repeats at a backend what it is sent.
func (p pods) echoing(t *testing.T, at netip.AddrPort) {
	t.Helper()
	p.within(t, p.backend, func(*netlink.Handle) error {
		l, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					_, _ = io.Copy(c, c) // the client says what it misses
				}()
			}
		}()
		return nil
	})
}

func echoes(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		t.Fatal(err)
	}
	if said, err := bufio.NewReader(c).ReadString('\n'); err != nil || said != "hello\n" {
		t.Fatalf("%q, %v", said, err)
	}
}

// closed closes a connection on both sides.
func closed(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("the other side's end: %v", err)
	}
	c.Close()
}
