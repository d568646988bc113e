package host

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount finds where a file system of a type ("bpf", "cgroup2") is mounted: the first such mount of this process's mount
// namespace that no other one covers. The error wraps fs.ErrNotExist where there is none.
func Mount(fstype string) (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("look for a %s mount: %w", fstype, err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(before); strings.HasPrefix(after, fstype+" ") && len(fields) > 4 {
			if path := unescape(fields[4]); device(path) == fields[2] {
				return path, nil
			}
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("look for a %s mount: %w", fstype, err)
	}
	return "", fmt.Errorf("no %s file system is mounted: %w", fstype, fs.ErrNotExist)
}

// device is the device that a path is on, as mountinfo has it; "" for a path that isn't there.
func device(path string) string {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return ""
	}
	return fmt.Sprintf("%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)))
}

// unescape undoes what the kernel does to blanks and backslashes in a path: "\040" is a blank.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`, `\043`, "#").Replace(path)
}

// MountOr is Mount with an answer for machines that have no such mount yet.
func MountOr(fstype, otherwise string) (string, error) {
	path, err := Mount(fstype)
	if errors.Is(err, fs.ErrNotExist) {
		return otherwise, nil
	}
	return path, err
}
