package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/netns"
)

// Client and servers have a CPU each: the scheduler would pack them onto one at times, and throughput would have two modes.
const (
	clientCPU = 0
	serverCPU = 1
)

// process is a client or a server in a pod.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
	cpu int
}

// start runs this binary in a namespace, on one CPU, and waits until it says that it is ready.
func start(pod *os.File, cpu int, args ...string) (*process, error) {
	p := &process{cmd: exec.Command("/proc/self/exe", append([]string{"-child"}, args...)...), cpu: cpu}
	p.cmd.Stderr = os.Stderr
	p.cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	// The child has the namespace and the CPUs of the thread that starts it. The thread ends afterwards.
	err = netns.Do(int(pod.Fd()), func() error {
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("pin to CPU %d: %w", cpu, err)
		}
		return p.cmd.Start()
	})
	if err != nil {
		return nil, fmt.Errorf("start the %s: %w", args[0], err)
	}
	if _, err := p.out.ReadString('\n'); err != nil {
		return nil, errors.Join(fmt.Errorf("start the %s: %w", args[0], err), p.stop())
	}
	return p, nil
}

// stop ends the process: it goes when its input does.
func (p *process) stop() error {
	return errors.Join(p.in.Close(), p.cmd.Wait())
}

// answer is what a client measured.
type answer struct {
	Count   int     // bytes, connections or round trips
	Seconds float64 // that it took
	P50     float64 // of round trips, in µs
	P99     float64
	Error   string
}

// ask has the client do something for some time.
func (p *process) ask(what string, d time.Duration) (a answer, err error) {
	if _, err := fmt.Fprintf(p.in, "%s %d\n", what, d.Nanoseconds()); err != nil {
		return a, err
	}
	line, err := p.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &a)
	}
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	return a, err
}

// cpu is what the lane's processes ran so far, with the softirq threads of their CPUs.
func (l *lane) cpu() (time.Duration, error) {
	dirs := softirqThreads
	for _, p := range append(slices.Clone(l.servers), l.client) {
		dirs = append(dirs, fmt.Sprintf("/proc/%d", p.cmd.Process.Pid))
	}
	var sum time.Duration
	for _, dir := range dirs {
		tasks, err := filepath.Glob(dir + "/task/*/schedstat")
		if err != nil || len(tasks) == 0 {
			return 0, fmt.Errorf("no tasks in %s", dir)
		}
		for _, t := range tasks {
			b, err := os.ReadFile(t)
			if err != nil {
				return 0, err
			}
			ran, _, _ := strings.Cut(string(b), " ")
			ns, err := strconv.ParseInt(ran, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read %s: %w", t, err)
			}
			sum += time.Duration(ns)
		}
	}
	return sum, nil
}

// softirqThreads are the kernel's threads that take over where there is much to do.
var softirqThreads = func() (dirs []string) {
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		b, _ := os.ReadFile(name)
		for _, cpu := range []int{clientCPU, serverCPU} {
			if strings.TrimSpace(string(b)) == fmt.Sprintf("ksoftirqd/%d", cpu) {
				dirs = append(dirs, filepath.Dir(name))
			}
		}
	}
	return dirs
}()

// child is the process in a pod: "server PORT" or "client ADDRESS". It ends with its input.
func child(args []string) {
	runtime.LockOSThread()
	err := errors.New("expected server or client")
	switch args[0] {
	case "server":
		err = serve(args[1])
	case "client":
		err = client(args[1])
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", args[0], err)
		os.Exit(1)
	}
}

// serve answers one connection after the other. What begins with an s is read to its end, all else comes back.
func serve(port string) error {
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = setCubic(l)
	}
	if err == nil {
		err = unix.Bind(l, &unix.SockaddrInet4{Port: n})
	}
	if err == nil {
		err = unix.Listen(l, 1024)
	}
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Println("ready")
	buf := make([]byte, 256<<10)
	for {
		c, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
			continue
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		sink := false
		for first := true; ; first = false {
			k, err := unix.Read(c, buf)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || k == 0 {
				break
			}
			sink = sink || first && buf[0] == 's'
			if !sink {
				if _, err := unix.Write(c, buf[:k]); err != nil {
					break
				}
			}
		}
		unix.Close(c)
	}
}

// client does what it is told, one line an order, and answers in JSON.
func client(target string) error {
	at, err := netip.ParseAddrPort(target)
	if err != nil {
		return err
	}
	to := &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}
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
			case "stream":
				err = a.stream(to, start.Add(d))
			case "connect":
				err = a.connect(to, start.Add(d))
			case "rr":
				err = a.roundTrips(to, start.Add(d))
			}
			a.Seconds = time.Since(start).Seconds()
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

// setCubic chooses the congestion control, which may be BBR without the queueing that it needs. Other namespaces than the
// first one can't have it as their default.
func setCubic(fd int) error {
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "cubic"); err != nil {
		return fmt.Errorf("set congestion control cubic: %w", err)
	}
	return nil
}

// connected opens a connection that leaves nothing behind when it is closed.
func connected(to unix.Sockaddr) (int, error) {
	c, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err = unix.SetsockoptLinger(c, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err == nil {
		err = unix.SetsockoptTimeval(c, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	}
	if err == nil {
		err = unix.SetsockoptInt(c, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if err == nil {
		err = setCubic(c)
	}
	if err == nil {
		err = unix.Connect(c, to)
	}
	if err != nil {
		unix.Close(c)
		return -1, fmt.Errorf("connect: %w", err)
	}
	return c, nil
}

func (a *answer) stream(to unix.Sockaddr, until time.Time) error {
	c, err := connected(to)
	if err != nil {
		return err
	}
	defer unix.Close(c)
	buf := make([]byte, 128<<10)
	buf[0] = 's'
	for time.Now().Before(until) {
		k, err := unix.Write(c, buf)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("write: %w", err)
		}
		a.Count += max(k, 0)
	}
	return nil
}

// connect counts connections with one byte there and one back.
func (a *answer) connect(to unix.Sockaddr, until time.Time) error {
	for time.Now().Before(until) {
		c, err := connected(to)
		if err != nil {
			return err
		}
		err = exchange(c)
		unix.Close(c)
		if err != nil {
			return err
		}
		a.Count++
	}
	return nil
}

func (a *answer) roundTrips(to unix.Sockaddr, until time.Time) error {
	c, err := connected(to)
	if err != nil {
		return err
	}
	defer unix.Close(c)
	var took []float64
	for last := time.Now(); last.Before(until); {
		if err := exchange(c); err != nil {
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

func exchange(c int) error {
	b := [1]byte{'e'}
	if _, err := unix.Write(c, b[:]); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	for {
		k, err := unix.Read(c, b[:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("read: %w", err)
		case k == 0:
			return io.ErrUnexpectedEOF
		}
		return nil
	}
}
