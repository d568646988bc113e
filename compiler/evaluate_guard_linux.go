package compiler

import (
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startGuarded starts cmd so that it has no privilege but reading files, none to gain, a process group of its own, and ends
// when this process does. What it calls when the process has ended is done.
//
// All of that is state of the thread that forks, and the parent-death signal is sent when that thread ends, not when the
// process does. So the thread is this goroutine's alone, waits for the child, and ends with it.
func startGuarded(cmd *exec.Cmd, done func(error)) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: what the thread gave up can't be had back
		err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
		if err == nil {
			dropCapabilities()
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
			err = cmd.Start()
		}
		started <- err
		if err == nil {
			done(cmd.Wait())
		}
	}()
	return <-started
}

// dropCapabilities empties the bounding set of this thread, and with it what a child that runs as root gets. Reading stays: a
// repository in a home folder of mode 0700 is read by root. Failing means that there was nothing to drop.
func dropCapabilities() {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if c != unix.CAP_DAC_READ_SEARCH {
			_ = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		}
	}
	_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
}

// limitSelf sets the hard limits of this process: bytes of private memory, no core dump, no file to write, few files open.
func limitSelf(memory uint64) error {
	for what, n := range map[int]uint64{unix.RLIMIT_DATA: memory, unix.RLIMIT_CORE: 0, unix.RLIMIT_FSIZE: 0, unix.RLIMIT_NOFILE: 256} {
		if err := unix.Setrlimit(what, &unix.Rlimit{Cur: n, Max: n}); err != nil {
			return err
		}
	}
	return nil
}

// limitCPU makes the kernel kill this process once it has used so much processor time.
func limitCPU(d time.Duration) error {
	n := uint64((d + time.Second - 1) / time.Second)
	return unix.Setrlimit(unix.RLIMIT_CPU, &unix.Rlimit{Cur: n, Max: n})
}

// self is the running binary, also when its file has been replaced.
const self = "/proc/self/exe"
