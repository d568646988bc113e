package lanes

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// child is the process in a pod: "server PORT", "client ADDRESS" or "count ADDRESS". It ends with its input.
func child(args []string) {
	runtime.LockOSThread()
	err := errors.New("expected server, client or count")
	switch args[0] {
	case "server":
		err = serve(args[1])
	case "client":
		err = client(args[1])
	case "count":
		err = counter(args[1])
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", args[0], err)
		os.Exit(1)
	}
}

// raw makes a system call that the runtime knows nothing of. Of one that it knows, and that blocks, it wakes up fifty times
// a millisecond to see whether somebody else could have the CPU.
func raw(call uintptr, args ...uintptr) (int, error) {
	var a [6]uintptr
	copy(a[:], args)
	for {
		n, _, errno := unix.RawSyscall6(call, a[0], a[1], a[2], a[3], a[4], a[5])
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
			continue
		}
		return -1, errno
	}
}

func read(fd int, b []byte) (int, error) {
	return raw(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
}

func send(fd int, b []byte) (int, error) {
	return raw(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)))
}

func closeFD(fd int) { _, _ = raw(unix.SYS_CLOSE, uintptr(fd)) }

// Port is where servers listen.
const Port = 8080

// What a client is asked to do for some time.
const (
	stream     = "stream"
	receive    = "receive"
	connect    = "connect"
	roundTrips = "rr"
)

// client does what it is told, one line an order, and answers in JSON.
func client(target string) error {
	at, err := netip.ParseAddrPort(target)
	if err != nil {
		return err
	}
	to := &unix.RawSockaddrInet4{Family: unix.AF_INET, Port: at.Port()<<8 | at.Port()>>8, Addr: at.Addr().As4()}
	fmt.Println("ready")
	out := json.NewEncoder(os.Stdout)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var what string
		var ns int64
		var a answer
		_, err := fmt.Sscan(in.Text(), &what, &ns)
		if err == nil {
			start, d := time.Now(), time.Duration(ns)
			switch what {
			case stream:
				err = a.stream(to, start.Add(d))
			case receive:
				err = a.receive(to, start.Add(d))
			case connect:
				err = a.connect(to, start.Add(d))
			case roundTrips:
				err = a.roundTrips(to, start.Add(d))
			}
			a.Seconds = time.Since(start).Seconds()
			switch what {
			case "connections":
				a.Count = int(ns)
				a.Seconds, err = connectTimes(remote{to}, a.Count)
			case "echoes":
				a.Count = int(ns)
				a.Seconds, err = echoTimes(remote{to}, a.Count)
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

var cubic = []byte("cubic")

// setCubic chooses the congestion control, which may be BBR without the queueing that it needs. Other namespaces than the
// first one can't have it as their default.
func setCubic(fd int) error {
	if err := setOption(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, unsafe.Pointer(&cubic[0]), len(cubic)); err != nil {
		return fmt.Errorf("set congestion control cubic: %w", err)
	}
	return nil
}

func setOption(fd, level, name int, value unsafe.Pointer, size int) error {
	_, err := raw(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(value), uintptr(size))
	return err
}

var reset = unix.Linger{Onoff: 1}

// begun opens a connection that leaves nothing behind when it is closed. It is on its way: the first write waits for it.
func begun(to *unix.RawSockaddrInet4) (int, error) {
	c, err := raw(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	err = setOption(c, unix.SOL_SOCKET, unix.SO_LINGER, unsafe.Pointer(&reset), int(unsafe.Sizeof(reset)))
	if err == nil {
		err = setCubic(c)
	}
	if err == nil {
		_, err = raw(unix.SYS_CONNECT, uintptr(c), uintptr(unsafe.Pointer(to)), unsafe.Sizeof(*to))
	}
	if err == nil || errors.Is(err, unix.EINPROGRESS) {
		_, err = raw(unix.SYS_FCNTL, uintptr(c), unix.F_SETFL, 0) // blocking from here on
	}
	if err != nil {
		closeFD(c)
		return -1, fmt.Errorf("connect: %w", err)
	}
	return c, nil
}

func (a *answer) stream(to *unix.RawSockaddrInet4, until time.Time) error {
	c, err := begun(to)
	if err != nil {
		return err
	}
	defer closeFD(c)
	buf := make([]byte, 128<<10)
	buf[0] = sink
	for time.Now().Before(until) {
		k, err := send(c, buf)
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		a.Count += k
	}
	return nil
}

func (a *answer) receive(to *unix.RawSockaddrInet4, until time.Time) error {
	c, err := begun(to)
	if err != nil {
		return err
	}
	defer closeFD(c)
	if err := say(c, pour); err != nil {
		return err
	}
	buf := make([]byte, 256<<10)
	for time.Now().Before(until) {
		k, err := read(c, buf)
		if err == nil && k == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		a.Count += k
	}
	return nil
}

// inFlight is how many connections a client has at a time. With one, both CPUs would mostly wait, and falling asleep and
// being woken, which is dear in a virtual machine, would be most of what is measured.
const inFlight = 16

// connect counts connections with one byte there and one back.
func (a *answer) connect(to *unix.RawSockaddrInet4, until time.Time) error {
	open := make([]int, 0, inFlight)
	for time.Now().Before(until) {
		var err error
		for range inFlight {
			c, openErr := begun(to)
			if openErr != nil {
				err = openErr
				break
			}
			open = append(open, c)
		}
		for _, c := range open {
			if err == nil {
				err = say(c, once)
			}
		}
		for _, c := range open {
			if err == nil {
				err = hear(c)
			}
			closeFD(c)
			a.Count++
		}
		if err != nil {
			return err
		}
		open = open[:0]
	}
	return nil
}

func (a *answer) roundTrips(to *unix.RawSockaddrInet4, until time.Time) error {
	c, err := begun(to)
	if err != nil {
		return err
	}
	defer closeFD(c)
	took := make([]float64, 0, 1<<16)
	for last := time.Now(); last.Before(until) || len(took) == 0; {
		if err := say(c, echo); err != nil {
			return err
		}
		if err := hear(c); err != nil {
			return err
		}
		now := time.Now()
		took = append(took, float64(now.Sub(last).Nanoseconds())/1e3)
		last = now
	}
	slices.Sort(took)
	a.Count, a.P50, a.P99 = len(took), took[len(took)/2], took[len(took)*99/100]
	return nil
}

// letter is the byte that goes there and comes back.
var letter = make([]byte, 1)

func say(c int, what byte) error {
	letter[0] = what
	if _, err := send(c, letter); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

func hear(c int) error {
	k, err := read(c, letter)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if k == 0 {
		return io.ErrUnexpectedEOF
	}
	return nil
}
