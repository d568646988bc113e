package guard

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"plumb.internal/plumb/internal/kindtest"
	low "plumb.internal/plumb/internal/netns"
)

// talk is the operator's session: a TCP connection from the operator's namespace to the node, which sends numbers all the time
// that the operator sends back. What is returned fails unless it goes on, with nothing lost.
func (l *lab) talk(t *testing.T) (goesOn func()) {
	t.Helper()
	s, ok := parseSession(l.world.session)
	if !ok {
		t.Fatalf("session %q", l.world.session)
	}
	here := netip.AddrPortFrom(s.Local, s.LocalPort)
	var server net.Listener
	err := low.Do(int(l.root.Fd()), func() (err error) {
		server, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", here.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	h := kindtest.Open(t, l.o)
	defer h.Close()
	op, err := h.NS("op")
	if err != nil {
		t.Fatal(err)
	}
	var far net.Conn
	err = op.Do(func() (err error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(s.Remote, s.RemotePort))}
		far, err = d.DialContext(ctx, "tcp", here.String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() }) // before the node goes
	c, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	go func() { _, _ = io.Copy(far, far) }()
	var sent, heard atomic.Uint64
	ended := make(chan error, 2)
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for ; ; <-tick.C {
			if err := binary.Write(c, binary.BigEndian, sent.Add(1)); err != nil {
				ended <- err
				return
			}
		}
	}()
	go func() {
		for {
			var n uint64
			err := binary.Read(c, binary.BigEndian, &n)
			if err == nil && n != heard.Add(1) {
				err = errors.New("it isn't what was sent")
			}
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	goesOn = func() {
		t.Helper()
		now := sent.Load()
		until(t, "the operator's session goes on", func() bool {
			select {
			case err := <-ended:
				t.Fatalf("the operator's session: %v", err)
			default:
			}
			return heard.Load() > now
		})
	}
	goesOn()
	return goesOn
}
