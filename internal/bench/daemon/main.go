// Command daemon measures plumb run: from a saved file to the kernel, from a deleted route to its return, from the start
// after a reboot to the first service that answers, and what it costs when nothing happens.
//
//	daemon [-n 1000,10000] [-pods N] [-times N] [-boots N] [-idle SECONDS]      as root; bin/plumb must be built
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// settings are what one run measures.
type settings struct {
	Plumb, Cgroup  string
	Services, Pods int
	Times, Boots   int
	Idle           float64
}

func run() error {
	sizes := flag.String("n", "1000,10000", "numbers of services, with three backends each, in files of a hundred")
	pods := flag.Int("pods", 4, "number of pods, at least 4")
	times := flag.Int("times", 50, "how often a file is saved, and a route deleted")
	boots := flag.Int("boots", 5, "how often the node is booted")
	idle := flag.Float64("idle", 10, "seconds without anything to do")
	one := flag.String("one", "", "internal: the settings of the run in this process's private namespaces")
	flag.Parse()
	if *one != "" {
		var s settings
		if err := json.Unmarshal([]byte(*one), &s); err != nil {
			return err
		}
		return measure(s)
	}
	if os.Getuid() != 0 {
		return errors.New("network namespaces need root")
	}
	plumb, err := filepath.Abs("bin/plumb")
	if err != nil {
		return err
	}
	if _, err := os.Stat(plumb); err != nil {
		return fmt.Errorf("%w: run `make build` first", err)
	}
	for _, word := range strings.Split(*sizes, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 2 {
			return fmt.Errorf("%q is no number of services", word)
		}
		if err := private(settings{Plumb: plumb, Services: n, Pods: max(*pods, 4), Times: *times, Boots: max(*boots, 1), Idle: *idle}); err != nil {
			return fmt.Errorf("%d services: %w", n, err)
		}
	}
	return nil
}

// private runs this program again, in network and mount namespaces and a cgroup of its own.
func private(s settings) (err error) {
	top, err := host.Mount("cgroup2")
	if err != nil {
		return fmt.Errorf("socket programs need cgroup2: %w", err)
	}
	if s.Cgroup, err = os.MkdirTemp(top, "plumb-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(s.Cgroup)) }()
	dir, err := os.Open(s.Cgroup)
	if err != nil {
		return err
	}
	defer dir.Close()
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	c := exec.Command("/proc/self/exe", "-one", string(b))
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL,
		UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	c.Stdout, c.Stderr = os.Stdout, os.Stderr
	return c.Run()
}

func address(base string, i int) netip.Addr {
	a := netip.MustParseAddr(base).As4()
	return netip.AddrFrom4([4]byte{a[0], a[1] + byte(i>>16), byte(i >> 8), byte(i)})
}

func serviceAddress(i int) netip.Addr    { return address("10.96.0.0", i+1) }
func backendAddress(i, k int) netip.Addr { return address("172.16.0.0", 3*i+k+1) }
func podAddress(i int) netip.Addr        { return address("10.0.0.0", i+2) }

const perFile = 100

// writeAll writes the repository.
func (w *world) writeAll() error {
	var b strings.Builder
	b.WriteString("package plumb\n\nnodes: bench: podCIDRs: [\"10.0.0.0/16\"]\npodDefaults: attach: \"veth\"\n")
	for i := range w.Pods {
		fmt.Fprintf(&b, "pods: \"pod-%d\": addresses: [%q]\n", i, podAddress(i))
	}
	if err := os.WriteFile(filepath.Join(w.dir, "plumb.cue"), []byte(b.String()), 0o644); err != nil {
		return err
	}
	for part := range (w.Services + perFile - 1) / perFile {
		if err := w.writePart(part, -1, 0); err != nil {
			return err
		}
	}
	return nil
}

// writePart writes one file of services as an editor does. Service changed has another last backend.
func (w *world) writePart(part, changed, variant int) error {
	path := filepath.Join(w.dir, fmt.Sprintf("part-%05d.cue", part))
	f, err := os.Create(path + ".tmp")
	if err != nil {
		return err
	}
	b := bufio.NewWriter(f)
	fmt.Fprint(b, "package plumb\n\nservices: {\n")
	for i := part * perFile; i < min((part+1)*perFile, w.Services); i++ {
		fmt.Fprintf(b, "\t\"svc-%d\": {\n\t\taddresses: [%q]\n\t\tports: http: {port: 80, targetPort: 8080}\n\t\tbackends: [", i, serviceAddress(i))
		for k := range 3 {
			switch {
			case i == 0:
				fmt.Fprintf(b, "{pod: \"pod-%d\"}, ", k)
			case i == changed && k == 2:
				fmt.Fprintf(b, "{address: %q}, ", backendAddress(w.Services+variant, 0))
			default:
				fmt.Fprintf(b, "{address: %q}, ", backendAddress(i, k))
			}
		}
		fmt.Fprint(b, "]\n\t}\n")
	}
	fmt.Fprint(b, "}\n")
	if err := errors.Join(b.Flush(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// world is a node in namespaces of this process's own.
type world struct {
	settings
	dir, run, state, bpffs string
	daemon                 *exec.Cmd
}

func measure(s settings) error {
	runtime.LockOSThread() // the daemon dies with the thread that started it
	// What happens in the folders above the repository wakes the daemon, and /tmp is everybody's.
	top, err := os.MkdirTemp("/var/tmp", "plumb-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(top)
	w := &world{settings: s, dir: filepath.Join(top, "repo"), run: filepath.Join(top, "run"), state: filepath.Join(top, "state"), bpffs: filepath.Join(top, "bpf")}
	for _, m := range []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return os.MkdirAll("/run/netns", 0o755) },
		func() error { return unix.Mount("netns", "/run/netns", "tmpfs", 0, "") },
		func() error { return os.Mkdir(w.dir, 0o755) },
		func() error { return os.Mkdir(filepath.Dir(w.log()), 0o755) },
		func() error { return os.Mkdir(w.bpffs, 0o755) },
		func() error { return unix.Mount("bpf", w.bpffs, "bpf", 0, "") },
		func() error { return exec.Command("ip", "link", "set", "lo", "up").Run() },
	} {
		if err := m(); err != nil {
			return fmt.Errorf("make private folders: %w", err)
		}
	}
	defer unix.Unmount(w.bpffs, unix.MNT_DETACH)
	if err := w.writeAll(); err != nil {
		return err
	}
	return w.all()
}

// figure prints a median, the 99th of a hundred, and the extremes.
func figure(name string, vs []time.Duration, mark string) {
	slices.Sort(vs)
	at := func(q float64) float64 { return ms(vs[min(len(vs)-1, int(q*float64(len(vs))))]) }
	fmt.Printf("  %-44s p50 %7.1f  p99 %7.1f  [%.1f–%.1f] ms, %d times%s\n", name, at(0.5), at(0.99), ms(vs[0]), ms(vs[len(vs)-1]), len(vs), mark)
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
