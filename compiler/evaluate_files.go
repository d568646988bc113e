package compiler

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// Limits on what one repository may hold. They are far above what fits a node, and far below what hurts it.
const (
	maxFileBytes  = 32 << 20
	maxTotalBytes = 64 << 20
	maxFiles      = 10_000
)

var errTooLarge = fmt.Errorf("the file is larger than the %d MiB that plumb reads", maxFileBytes>>20)

// reader reads the files of a repository. It opens regular files only, so that a FIFO or a device with the name of a file can't
// hang or feed the evaluation, and it counts what it reads.
type reader struct {
	most  int64 // bytes of all files together
	files int
	bytes int64
}

// read reads a regular file within the limits; a symbolic link to one is one.
func (r *reader) read(name string) (string, error) {
	fail := func(err error) (string, error) {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return "", &fs.PathError{Op: "read", Path: name, Err: err}
	}
	// Without O_NONBLOCK, opening a FIFO waits for a writer.
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		if fi, serr := os.Stat(name); serr == nil && !fi.Mode().IsRegular() {
			err = notRegular(fi.Mode())
		}
		return fail(err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	if !fi.Mode().IsRegular() {
		return fail(notRegular(fi.Mode()))
	}
	if fi.Size() > maxFileBytes {
		return fail(errTooLarge)
	}
	if r.bytes+fi.Size() > r.most {
		return fail(r.tooMuch())
	}
	var b strings.Builder
	b.Grow(int(fi.Size())) // which is 0 for a file in /proc whatever it holds
	if _, err := io.Copy(&b, io.LimitReader(f, maxFileBytes+1)); err != nil {
		return fail(err)
	}
	if b.Len() > maxFileBytes {
		return fail(errTooLarge)
	}
	r.files++
	r.bytes += int64(b.Len())
	if r.files > maxFiles {
		return fail(fmt.Errorf("the repository has more than the %d files that plumb reads", maxFiles))
	}
	if r.bytes > r.most {
		return fail(r.tooMuch())
	}
	return b.String(), nil
}

func (r *reader) tooMuch() error {
	return fmt.Errorf("the repository has more than the %d bytes that plumb reads", r.most)
}

func notRegular(m fs.FileMode) error {
	kind := "special file"
	switch {
	case m.IsDir():
		kind = "directory"
	case m&fs.ModeNamedPipe != 0:
		kind = "named pipe"
	case m&fs.ModeSocket != 0:
		kind = "socket"
	case m&fs.ModeDevice != 0:
		kind = "device"
	}
	return fmt.Errorf("is a %s, not a regular file", kind)
}
