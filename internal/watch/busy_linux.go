package watch

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// openForWriting reports whether somebody has the file open for writing: the kernel gives no read lease on such a file.
// Where it gives none to anybody (another's file without the capability LEASE, some file systems) the answer is no.
func openForWriting(f *os.File) bool {
	raw, err := f.SyscallConn()
	if err != nil {
		return false
	}
	writing := false
	_ = raw.Control(func(fd uintptr) {
		if _, err = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_RDLCK); err == nil {
			_, err = unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK)
		} else {
			writing = errors.Is(err, unix.EAGAIN)
		}
	})
	return writing
}
