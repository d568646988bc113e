package host

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// usual is where file systems are found on most machines. Containers and tests have more of them, elsewhere and for a while.
var usual = []string{"/sys/fs/bpf", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"}

// Mount finds where a file system of a type ("bpf", "cgroup2") is mounted in this process's mount namespace: the usual
// place, else the first such mount. One that another mount covers doesn't count. The error wraps fs.ErrNotExist where there
// is none.
func Mount(fstype string) (string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("look for a %s mount: %w", fstype, err)
	}
	defer f.Close()
	first := ""
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		if fields := strings.Fields(before); strings.HasPrefix(after, fstype+" ") && len(fields) > 4 {
			path := unescape(fields[4])
			switch {
			case device(path) != fields[2]:
			case slices.Contains(usual, path):
				return path, nil
			case first == "":
				first = path
			}
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("look for a %s mount: %w", fstype, err)
	}
	if first != "" {
		return first, nil
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
