package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// Machine is what runs a job.
type Machine struct {
	Kernel *Kernel
	CPUs   int
	// Counted makes the machine's clock count instructions, one a nanosecond, on one processor and in software: what it
	// times is the same each time, and says nothing of caches.
	Counted bool
	Timeout time.Duration // for everything from start to end; the machine is killed then
	Live    io.Writer     // gets what the steps print as it comes; may be nil
}

// Slow reports whether the machine is emulated in software, which makes it 20 to 40 times slower than this one.
func (m *Machine) Slow() bool { return !m.kvm() }

// kvm looks at the flags of the processor too: under some hypervisors /dev/kvm can be opened and yet boots no stock kernel.
func (m *Machine) kvm() bool {
	if m.Counted || m.Kernel.Arch != runtime.GOARCH {
		return false
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	if runtime.GOARCH != "amd64" {
		return true
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	return err == nil && regexp.MustCompile(`(?m)^flags.*\b(vmx|svm)\b`).Match(info)
}

// Run starts a machine with root as its file system and job as its work, and waits for its end. The error says that the
// job didn't run to its end; steps that failed are in the outcome.
func (m *Machine) Run(ctx context.Context, root *Root, job Job) (*Outcome, error) {
	if err := root.PutJob(m.Kernel, job); err != nil {
		return nil, err
	}
	initrd, err := os.CreateTemp("", "vmtest-*.cpio")
	if err != nil {
		return nil, fmt.Errorf("create initramfs: %w", err)
	}
	defer os.Remove(initrd.Name())
	defer initrd.Close()
	if err := root.Write(initrd); err != nil {
		return nil, err
	}
	st, err := initrd.Stat()
	if err != nil {
		return nil, fmt.Errorf("create initramfs: %w", err)
	}

	ctx, cancel := context.WithTimeoutCause(ctx, m.Timeout, fmt.Errorf("ran out of its %v", m.Timeout))
	defer cancel()
	// The archive is in memory twice while it is unpacked, into a file system that takes half of the memory.
	args := m.args(initrd.Name(), 1024+3*int(st.Size()>>20))
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	console, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start machine: %w", err)
	}
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	// Pdeathsig is about the thread that starts the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start machine: %w", err)
	}
	out, err := readConsole(console, m.Live)
	werr := cmd.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return out, fmt.Errorf("kernel %s: %w: %w", m.Kernel.Name, cause, err)
	}
	if err := errors.Join(err, werr); err != nil {
		return out, fmt.Errorf("kernel %s: %w\n%s", m.Kernel.Name, err, complaints.Bytes())
	}
	return out, nil
}

// args is the command line of qemu. The machine has an unconnected network device for its uplink, and no other hardware.
func (m *Machine) args(initrd string, memoryMiB int) []string {
	program, console := "qemu-system-x86_64", "ttyS0"
	// One thread for all processors of a machine: with more, one may run an instruction that another is just patching, and the
	// kernel ends (int3).
	machine, cpu, accel := "q35", "max", "tcg,thread=single,tb-size=512"
	if m.Kernel.Arch == "arm64" {
		program, console, machine, cpu = "qemu-system-aarch64", "ttyAMA0", "virt", "cortex-a57"
	}
	if m.kvm() {
		accel, cpu = "kvm", "host"
	}
	cpus, clock := m.CPUs, []string{}
	source := "tsc=reliable"
	if m.Slow() && !m.Counted {
		// How fast the processor's counter runs is found out at the start, and wrongly where this machine is busy then: ten
		// times too fast went the time of one. The HPET's rate is known.
		source = "clocksource=hpet"
	}
	if m.Counted {
		accel, cpus, clock = "tcg,thread=single,tb-size=512", 1, []string{"-icount", "shift=0,sleep=off"}
	}
	return append([]string{program, "-accel", accel, "-M", machine, "-cpu", cpu, "-m", strconv.Itoa(memoryMiB), "-smp", strconv.Itoa(cpus),
		"-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot",
		"-netdev", "hubport,id=uplink,hubid=0", "-device", "virtio-net-pci,netdev=uplink,romfile=",
		"-kernel", m.Kernel.Image, "-initrd", initrd,
		"-append", "console=" + console + " quiet loglevel=3 panic=-1 net.ifnames=0 mitigations=off no_timer_check " + source}, clock...)
}
