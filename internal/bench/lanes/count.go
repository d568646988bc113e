package lanes

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"unsafe"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/netns"
)

// counter is the process "count ADDRESS": client and server in one thread, so that nothing waits for a scheduler. It runs
// in the client's namespace and has the server's as its descriptor 3. On a machine whose clock counts instructions, the
// time that it takes is how many there were.
func counter(target string) error {
	debug.SetGCPercent(-1)
	at, err := netip.ParseAddrPort(target)
	if err != nil {
		return err
	}
	to := &unix.RawSockaddrInet4{Family: unix.AF_INET, Port: at.Port()<<8 | at.Port()>>8, Addr: at.Addr().As4()}
	l := -1
	err = netns.Do(3, func() (err error) {
		if l, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		if err = unix.Bind(l, &unix.SockaddrInet4{Port: Port}); err != nil {
			return err
		}
		return unix.Listen(l, 1024)
	})
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	fmt.Println("ready")
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var what string
		var n int
		a := answer{}
		_, err := fmt.Sscan(in.Text(), &what, &n)
		if err == nil {
			a.Count = n
			runtime.GC()
			if what == "connections" {
				a.Seconds, err = connectTimes(local{l, to}, n)
			} else {
				a.Seconds, err = echoTimes(local{l, to}, n)
			}
		}
		if err != nil {
			a.Error = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return err
		}
	}
	return nil
}

// clock is one that nobody adjusts, in ns.
func clock() int64 {
	var t unix.Timespec
	_, _ = raw(unix.SYS_CLOCK_GETTIME, unix.CLOCK_MONOTONIC_RAW, uintptr(unsafe.Pointer(&t)))
	return t.Nano()
}

// peers are how a byte comes to a server and back.
type peers interface {
	connect() (conn, error)
	exchange(c conn, b []byte) error
	// close ends both sides.
	close(c conn) error
}

// conn is a connection by its ends; that of the server may be elsewhere.
type conn struct{ client, server int }

// local has the server in the same thread.
type local struct {
	listener int
	to       *unix.RawSockaddrInet4
}

func (l local) connect() (conn, error) {
	c, err := remote{l.to}.connect()
	if err == nil {
		c.server, err = raw(unix.SYS_ACCEPT4, uintptr(l.listener), 0, 0, unix.SOCK_CLOEXEC)
	}
	return c, err
}

func (local) exchange(c conn, b []byte) error {
	_, err := send(c.client, b)
	if err == nil {
		_, err = read(c.server, b)
	}
	if err == nil {
		_, err = send(c.server, b)
	}
	if err == nil {
		_, err = read(c.client, b)
	}
	return err
}

func (local) close(c conn) error {
	closeFD(c.client)
	_, err := read(c.server, make([]byte, 1)) // the end
	closeFD(c.server)
	return err
}

// remote has it in another process.
type remote struct{ to *unix.RawSockaddrInet4 }

func (r remote) connect() (c conn, err error) {
	c.client, err = raw(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		_, err = raw(unix.SYS_CONNECT, uintptr(c.client), uintptr(unsafe.Pointer(r.to)), unsafe.Sizeof(*r.to))
	}
	return c, err
}

func (remote) exchange(c conn, b []byte) error {
	_, err := send(c.client, b)
	if err == nil {
		_, err = read(c.client, b)
	}
	return err
}

func (remote) close(c conn) error {
	closeFD(c.client)
	return nil
}

// connectTimes is how long n connections take, each with a byte there and one back.
func connectTimes(p peers, n int) (float64, error) {
	b := []byte{once}
	start := clock()
	for range n {
		c, err := p.connect()
		if err == nil {
			err = p.exchange(c, b)
		}
		if err == nil {
			err = p.close(c)
		}
		if err != nil {
			return 0, err
		}
	}
	return float64(clock()-start) / 1e9, nil
}

// echoTimes is how long it takes n times to send a byte there and back on one connection.
func echoTimes(p peers, n int) (float64, error) {
	b := []byte{echo}
	c, err := p.connect()
	if err != nil {
		return 0, err
	}
	start := int64(0)
	for i := range n + warm {
		if i == warm {
			start = clock()
		}
		if err := p.exchange(c, b); err != nil {
			return 0, err
		}
	}
	end := clock()
	return float64(end-start) / 1e9, p.close(c)
}

// warm is how many round trips it takes until TCP no longer acknowledges each at once.
const warm = 50

// startCounter runs a counter on a bed.
func startCounter(b *Bed, client, server *os.File, target netip.AddrPort) (*process, error) {
	return b.start(client, clientCPU, []*os.File{server}, "count", target.String())
}

// counts adds one block of n connections and one of n round trips, in clock ticks each.
func (l *Lane) counts(n int) error {
	for what, metric := range map[string]Metric{"connections": PerConnection, "echoes": PerRoundTrip} {
		a, err := l.client.order(fmt.Sprintf("%s %d", what, n), patience)
		if err == nil && a.Count != n {
			err = errors.New("the counter stopped early")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		l.figures[metric] = append(l.figures[metric], a.Seconds*1e9/float64(n))
	}
	return nil
}
