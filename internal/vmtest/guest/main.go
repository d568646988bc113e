// Guest is the first process of a machine that package vmtest starts: it sets the system up, runs the steps of its job,
// hands back what they left in /out, and ends the machine.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/vmtest"
)

func main() {
	job, err := setUp()
	if err != nil {
		report(vmtest.Event{Broken: err.Error()})
		end()
	}
	report(vmtest.Event{Up: uptime()})
	for _, s := range job.Steps {
		report(vmtest.Event{Begin: s.Name})
		e := run(s, job.Env)
		report(vmtest.Event{End: &e})
	}
	if err := sendFiles("/out"); err != nil {
		report(vmtest.Event{Broken: err.Error()})
		end()
	}
	report(vmtest.Event{Done: true})
	end()
}

func report(e vmtest.Event) {
	if err := vmtest.Report(os.Stdout, e); err != nil {
		fmt.Println(err)
	}
}

// end stops the machine once the console is empty. qemu is told to take a restart for the end.
func end() {
	unix.Sync()
	_ = unix.IoctlSetInt(1, unix.TCSBRK, 1) // tcdrain
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}

const path = "/bin:/sbin:/usr/bin:/usr/sbin"

var mounts = []struct{ kind, dir, data string }{
	{"proc", "/proc", ""},
	{"sysfs", "/sys", ""},
	{"devtmpfs", "/dev", ""},
	{"devpts", "/dev/pts", ""},
	{"tmpfs", "/dev/shm", "mode=1777"},
	{"tmpfs", "/tmp", "mode=1777"},
	{"tmpfs", "/run", "mode=755"},
	{"cgroup2", "/sys/fs/cgroup", ""},
	{"bpf", "/sys/fs/bpf", "mode=700"},
	{"tracefs", "/sys/kernel/tracing", ""},
}

func setUp() (*vmtest.Job, error) {
	for _, m := range mounts {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return nil, err
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	for _, dir := range []string{"/out", "/root", "/var/lib", "/run/netns"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	for name, target := range map[string]string{"/dev/fd": "/proc/self/fd", "/var/run": "/run", "/usr/bin": "/bin", "/usr/sbin": "/bin", "/sbin": "/bin"} {
		if _, err := os.Lstat(name); err == nil {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return nil, err
		}
		if err := os.Symlink(target, name); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod("/", 0o755); err != nil {
		return nil, err
	}
	if err := unix.Sethostname([]byte("guest")); err != nil {
		return nil, fmt.Errorf("set host name: %w", err)
	}
	if err := os.Setenv("PATH", path); err != nil { // for finding the programs of the steps
		return nil, err
	}
	data, err := os.ReadFile("/job.json")
	if err != nil {
		return nil, err
	}
	var job vmtest.Job
	if err := json.Unmarshal(data, &job); err != nil {
		return nil, fmt.Errorf("read job: %w", err)
	}
	for _, m := range job.Modules {
		if err := loadModule(m); err != nil {
			return nil, fmt.Errorf("load module %s: %w", m, err)
		}
	}
	return &job, setLoopbackUp()
}

// parameters keep modules from making devices of their own: a machine has lo and its uplink, nothing else.
var parameters = map[string]string{"dummy": "numdummies=0", "ifb": "numifbs=0", "bonding": "max_bonds=0"}

// loadModule takes a module whose hardware isn't there for loaded: it says ENODEV.
func loadModule(name string) error {
	f, err := os.Open("/modules/" + name)
	if err != nil {
		return err
	}
	defer f.Close()
	err = unix.FinitModule(int(f.Fd()), parameters[name], 0)
	if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func setLoopbackUp() error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	return h.LinkSetUp(lo)
}

func run(s vmtest.Step, env []string) vmtest.End {
	ctx, cancel := context.WithCancel(context.Background())
	if s.Timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, s.Timeout)
	}
	defer cancel()
	start := time.Now()
	cmd := exec.CommandContext(ctx, s.Argv[0], s.Argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.Dir, os.Stdout, os.Stdout
	cmd.Env = append([]string{"PATH=" + path, "HOME=/root", "LANG=C.UTF-8"}, env...)
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	err := cmd.Run()
	e := vmtest.End{TookMS: time.Since(start).Milliseconds()}
	var exit *exec.ExitError
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		e.Exit, e.Error = 128+int(unix.SIGKILL), fmt.Sprintf("ran out of its %v", s.Timeout)
	case errors.As(err, &exit):
		if e.Exit = exit.ExitCode(); e.Exit < 0 {
			e.Exit = 128 + int(exit.Sys().(unix.WaitStatus).Signal())
		}
	case err != nil:
		e.Exit, e.Error = 127, err.Error()
	}
	return e
}

// sendFiles reports the regular files in dir, in pieces that leave the console's lines short.
func sendFiles(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		data, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			return err
		}
		report(vmtest.Event{File: entry.Name()})
		for len(data) > 0 {
			n := min(len(data), 2048)
			report(vmtest.Event{File: entry.Name(), Data: data[:n]})
			data = data[n:]
		}
	}
	return nil
}

func uptime() float64 {
	data, err := os.ReadFile("/proc/uptime")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(data), " ")
	seconds, _ := strconv.ParseFloat(first, 64)
	return max(seconds, 0.01)
}
