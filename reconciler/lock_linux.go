package reconciler

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
)

// lockFile is the lock's name in the run folder.
const lockFile = "lock"

// Lock makes this process the only one that works on the node, until unlock or its death. If another one is at work the
// error is a *LockedError. Making the file, and removing it where no record joined it, are the only writes, and the kernel
// releases the lock of a killed process.
func Lock(h *host.Host) (unlock func(), err error) {
	path := h.Path(lockFile)
	for {
		f, err := openLock(path)
		if err != nil {
			return nil, fmt.Errorf("lock the node: %w", err)
		}
		switch err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
		case errors.Is(err, unix.EWOULDBLOCK):
			pid := holder(f)
			f.Close()
			return nil, &LockedError{Path: path, PID: pid}
		case err != nil:
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		// A destroy may have removed the file between our open and our lock: then it is nobody's lock any more.
		if mine, err := f.Stat(); err == nil {
			if now, err := os.Stat(path); err == nil && os.SameFile(mine, now) {
				return func() {
					leaveNothing(h)
					_ = unix.Flock(int(f.Fd()), unix.LOCK_UN) // closing isn't enough while a child of this process has yet to exec
					f.Close()
				}, nil
			}
		}
		f.Close()
	}
}

// leaveNothing removes the run folder where it holds the lock alone: the work was refused, or there was none.
func leaveNothing(h *host.Host) {
	if files, err := os.ReadDir(h.RunDir); err == nil && len(files) == 1 {
		_ = removeRunDir(h) // what stays is in nobody's way
	}
}

// openLock opens the lock, and makes it the first time.
func openLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if !errors.Is(err, os.ErrNotExist) {
		return f, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}

// holder finds who holds the lock on f in /proc/locks: a file that told its holder would be one more write.
func holder(f *os.File) int {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0
	}
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)), st.Ino)
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return 0
	}
	defer locks.Close()
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		// 1: FLOCK  ADVISORY  WRITE 1234 00:1a:5678 0 EOF
		w := strings.Fields(lines.Text())
		if len(w) > 5 && w[1] == "FLOCK" && w[5] == file {
			pid, _ := strconv.Atoi(w[4])
			return pid
		}
	}
	return 0
}
