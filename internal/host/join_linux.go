package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// execCgroup is where processes go that plumb starts in a node's cgroup, if that may hold none itself.
const execCgroup = "plumb-exec"

// JoinCgroup moves this process into the node's cgroup, where socket programs see it, unless it is in there already. What
// it runs from then on is in there too. Without a cgroup it does nothing.
func (h *Host) JoinCgroup() error {
	if h.Cgroup == "" || h.inCgroup() {
		return nil
	}
	err := join(h.Cgroup)
	if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EOPNOTSUPP) {
		// A cgroup that hands its controllers down holds no processes of its own.
		child := filepath.Join(h.Cgroup, execCgroup)
		if err := os.Mkdir(child, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make a cgroup: %w", err)
		}
		err = join(child)
	}
	if err != nil {
		return fmt.Errorf("join cgroup %s: %w", h.Cgroup, err)
	}
	return nil
}

func join(dir string) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
}

// inCgroup reports whether the process is known to be in the node's cgroup or below it. In a cgroup namespace of its own a
// process can't say where it is; to join is right then too.
func (h *Host) inCgroup() bool {
	own, err := ownCgroup()
	if err != nil || own != h.Cgroup && !strings.HasPrefix(own, strings.TrimSuffix(h.Cgroup, "/")+"/") {
		return false
	}
	pids, err := os.ReadFile(filepath.Join(own, "cgroup.procs"))
	return err == nil && slices.Contains(strings.Fields(string(pids)), strconv.Itoa(os.Getpid()))
}
