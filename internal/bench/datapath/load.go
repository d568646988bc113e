package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
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

// patience is how much longer than asked a measurement may take.
const patience = 20 * time.Second

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
func (p *process) ask(what string, d time.Duration) (a answer, err error) {
	if _, err := fmt.Fprintf(p.in, "%s %d\n", what, d.Nanoseconds()); err != nil {
		return a, err
	}
	overdue := time.AfterFunc(d+patience, func() { _ = p.cmd.Process.Kill() })
	line, err := p.out.ReadBytes('\n')
	overdue.Stop()
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
