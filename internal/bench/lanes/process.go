package lanes

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/netns"
)

// Client and servers have a CPU each: the scheduler would pack them onto one at times, and throughput would have two modes.
// Where there is one CPU they share it.
var clientCPU, serverCPU = 0, min(1, runtime.NumCPU()-1)

// patience is how much longer than asked a measurement may take.
const patience = 20 * time.Second

// process is a client or a server in a pod.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// start runs this binary in a namespace and the bed's cgroup, on one CPU, and waits until it says that it is ready. Files
// are its descriptors from 3 on.
func (b *Bed) start(pod *os.File, cpu int, files []*os.File, args ...string) (*process, error) {
	p := &process{cmd: exec.Command("/proc/self/exe", append([]string{"-child"}, args...)...)}
	p.cmd.Stderr, p.cmd.ExtraFiles = os.Stderr, files
	p.cmd.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: int(b.cgroup.Fd())}
	// Go's own clockwork would be measured along: see raw.
	p.cmd.Env = append(os.Environ(), "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1")
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
func (p *process) ask(what string, d time.Duration) (answer, error) {
	return p.order(fmt.Sprintf("%s %d", what, d.Nanoseconds()), d+patience)
}

// order gives a process a line to work on, and returns its answer.
func (p *process) order(line string, limit time.Duration) (a answer, err error) {
	if _, err := fmt.Fprintln(p.in, line); err != nil {
		return a, err
	}
	overdue := time.AfterFunc(limit, func() { _ = p.cmd.Process.Kill() })
	b, err := p.out.ReadBytes('\n')
	overdue.Stop()
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	if err == nil && a.Error != "" {
		err = errors.New(a.Error)
	}
	return a, err
}

// cpu is what the bed's cgroup ran so far, in which are its client and servers and nothing else, with the softirqs that
// they ran themselves.
func (b *Bed) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(filepath.Join(b.cgroup.Name(), "cpu.stat"))
	if err != nil {
		return 0, err
	}
	var usec int64
	if _, err := fmt.Sscanf(string(stat), "usage_usec %d", &usec); err != nil {
		return 0, fmt.Errorf("read cpu.stat: %w", err)
	}
	return time.Duration(usec) * time.Microsecond, nil
}

// softirqs is what the kernel's softirq threads of both CPUs ran so far, which take over where there is much to do, for
// whoever makes it.
func softirqs() (time.Duration, error) {
	var sum time.Duration
	for _, dir := range softirqThreads {
		b, err := os.ReadFile(dir + "/schedstat")
		if err != nil {
			return 0, err
		}
		var ns int64
		if _, err := fmt.Sscan(string(b), &ns); err != nil {
			return 0, fmt.Errorf("read schedstat: %w", err)
		}
		sum += time.Duration(ns)
	}
	return sum, nil
}

// softirqThreads are the folders of those threads.
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
