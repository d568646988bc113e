package guard

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process is one process of this boot: numbers are given again, with another start.
type Process struct {
	PID   int    `json:"pid"`
	Start string `json:"start"` // in the kernel's ticks since boot
}

// self is this process.
func self() (Process, error) {
	p := Process{PID: os.Getpid()}
	var state string
	if state, p.Start = stat(p.PID); state == "" {
		return p, errors.New("read /proc/self/stat: is /proc mounted?")
	}
	return p, nil
}

// stat reads the state and the start of a process, "" where there is none.
func stat(pid int) (state, start string) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", ""
	}
	// The name in parentheses may hold anything.
	words := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(words) < 20 {
		return "", ""
	}
	return words[0], words[19]
}

// Alive reports whether the process is there, and not only to be waited for.
func (p Process) Alive() bool {
	if p.PID <= 0 {
		return false
	}
	state, start := stat(p.PID)
	return start == p.Start && state != "Z" && state != "X"
}

// kill ends the process, and no other one.
func (p Process) kill() error {
	if !p.Alive() {
		return nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.3
		return ignoreGone(unix.Kill(p.PID, unix.SIGKILL))
	}
	if err != nil {
		return ignoreGone(err)
	}
	defer unix.Close(fd)
	if !p.Alive() { // looked at again, now that it is held
		return nil
	}
	return ignoreGone(unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0))
}

func ignoreGone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// boottime is the time since boot. Nobody can set it, and it goes on while the machine sleeps.
func boottime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // every Linux has this clock
	}
	return time.Duration(t.Nano())
}

// wall is a time since boot by the clock on the wall, as that is set at present.
func wall(since time.Duration) time.Time { return time.Now().Add(since - boottime()) }
