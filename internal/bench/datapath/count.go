package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
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
		n, err := strconv.Atoi(port)
		if err == nil {
			err = unix.Bind(l, &unix.SockaddrInet4{Port: n})
		}
		if err == nil {
			err = unix.Listen(l, 1024)
		}
		return err
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
			if what == "connect" {
				a.Seconds, err = connectTimes(l, to, n)
			} else {
				a.Seconds, err = echoTimes(l, to, n)
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

// pair connects to the server, and accepts.
func pair(l int, to *unix.RawSockaddrInet4) (c, s int, err error) {
	c, err = raw(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		_, err = raw(unix.SYS_CONNECT, uintptr(c), uintptr(unsafe.Pointer(to)), unsafe.Sizeof(*to))
	}
	if err == nil {
		s, err = raw(unix.SYS_ACCEPT4, uintptr(l), 0, 0, unix.SOCK_CLOEXEC)
	}
	return c, s, err
}

// exchange is a byte there and one back.
func exchange(c, s int, b []byte) error {
	_, err := send(c, b)
	if err == nil {
		_, err = read(s, b)
	}
	if err == nil {
		_, err = send(s, b)
	}
	if err == nil {
		_, err = read(c, b)
	}
	return err
}

// connectTimes is a connection, a byte there, one back, and the end of both sides; n times.
func connectTimes(l int, to *unix.RawSockaddrInet4, n int) (float64, error) {
	b := make([]byte, 1)
	start := clock()
	for range n {
		c, s, err := pair(l, to)
		if err == nil {
			err = exchange(c, s, b)
		}
		closeFD(c)
		if err == nil {
			_, err = read(s, b) // the end
		}
		closeFD(s)
		if err != nil {
			return 0, err
		}
	}
	return float64(clock()-start) / 1e9, nil
}

// echoTimes is n times a byte there and one back on one connection.
func echoTimes(l int, to *unix.RawSockaddrInet4, n int) (float64, error) {
	b := make([]byte, 1)
	c, s, err := pair(l, to)
	if err != nil {
		return 0, err
	}
	defer closeFD(c)
	defer closeFD(s)
	if err := setOption(c, unix.IPPROTO_TCP, unix.TCP_NODELAY, unsafe.Pointer(&one), 4); err != nil {
		return 0, err
	}
	for range 20 { // until quick acknowledgements are over
		if err := exchange(c, s, b); err != nil {
			return 0, err
		}
	}
	start := clock()
	for range n {
		if err := exchange(c, s, b); err != nil {
			return 0, err
		}
	}
	return float64(clock()-start) / 1e9, nil
}

var one int32 = 1

// startCounter runs a counter on a bed.
func startCounter(b *bed, target netip.AddrPort) (*process, error) {
	return b.start(b.client, clientCPU, []*os.File{b.servers[0]}, "count", target.String())
}

// counts adds one block of n connections and one of n round trips, in clock ticks each.
func (l *lane) counts(n int) error {
	for what, metric := range map[string]metric{"connect": perConnection, "rr": perRoundTrip} {
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
