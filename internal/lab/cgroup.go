package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
)

// cgroup is the cgroup of a lab, by its path; each node has one below it.
type cgroup string

// cgroupOf names the cgroup of a lab, whether it exists or not.
func cgroupOf(name string) (cgroup, error) {
	mount, err := host.Mount("cgroup2")
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("a lab needs cgroup2 (mount -t cgroup2 none /sys/fs/cgroup): %w", err)
	}
	if err != nil {
		return "", err
	}
	return cgroup(filepath.Join(mount, "plumb-lab-"+name)), nil
}

// dir is the folder of a node's cgroup, or of the lab's with "".
func (c cgroup) dir(node string) string { return filepath.Join(string(c), node) }

// open makes the cgroup of a node if need be, and opens it, for processes to be born in it.
func (c cgroup) open(node string) (*os.File, error) {
	if err := os.MkdirAll(c.dir(node), 0o755); err != nil {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	f, err := os.Open(c.dir(node))
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	return f, nil
}

// pids lists the processes directly in the cgroup of a node.
func (c cgroup) pids(node string) ([]int, error) {
	data, err := os.ReadFile(filepath.Join(c.dir(node), "cgroup.procs"))
	if err != nil {
		return nil, fmt.Errorf("read cgroup: %w", err)
	}
	var pids []int
	for _, word := range strings.Fields(string(data)) {
		// 0 is a process of another pid namespace.
		if pid, err := strconv.Atoi(word); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func (c cgroup) holds(node string, pid int) bool {
	pids, err := c.pids(node)
	return err == nil && slices.Contains(pids, pid)
}

// remove kills every process in the cgroup and below, waits until they are gone, and removes the folders.
func (c cgroup) remove() error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		left, err := c.kill()
		if err != nil {
			return err
		}
		if left == 0 {
			if err := c.removeDirs(); err == nil {
				return nil
			} else if time.Now().After(deadline) {
				return err
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill the processes of cgroup %s: %d still run", c, left)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// kill sends SIGKILL to all processes below the cgroup and says how many there were. cgroup.kill would need Linux 5.14.
func (c cgroup) kill() (n int, err error) {
	err = c.walk(func(dir string) error {
		pids, err := cgroup(dir).pids("")
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		} else if err != nil {
			return err
		}
		for _, pid := range pids {
			n++
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill process %d of cgroup %s: %w", pid, dir, err)
			}
		}
		return nil
	})
	return n, err
}

func (c cgroup) removeDirs() error {
	return c.walk(func(dir string) error {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
		return nil
	})
}

// walk visits the folders of the cgroup, children first.
func (c cgroup) walk(visit func(dir string) error) error {
	var dirs []string
	err := filepath.WalkDir(string(c), func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		} else if err != nil {
			return fmt.Errorf("list cgroup: %w", err)
		}
		if d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, dir := range slices.Backward(dirs) {
		if err := visit(dir); err != nil {
			return err
		}
	}
	return nil
}
