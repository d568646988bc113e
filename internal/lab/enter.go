package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Exec replaces this process by argv, run in a node of the lab: in its namespaces, its mounts and its cgroup. It returns
// only on failure. The folder stays the caller's. Self and "plumb" as the command's name mean this very program.
func (l *Lab) Exec(node string, argv []string) error {
	if len(argv) == 0 {
		return errors.New("no command given")
	}
	n, err := l.Node(node)
	if err != nil {
		return err
	}
	cg, err := cgroupOf(l.Name)
	if err != nil {
		return err
	}
	pidfd, err := unix.PidfdOpen(n.PID, 0)
	// Looked at after the process is held: the number may have come to another one meanwhile.
	if err != nil || !cg.holds(n.Name, n.PID) {
		return fmt.Errorf("%w: node %s of %s is gone", ErrNotUp, n.Name, l.Name)
	}
	cwd, err := os.Getwd()
	if err != nil {
		cwd = l.Dir
	}
	if err := os.WriteFile(filepath.Join(cg.dir(n.Name), "cgroup.procs"), []byte("0"), 0); err != nil {
		return fmt.Errorf("enter cgroup of node %s: %w", n.Name, err)
	}
	runtime.LockOSThread()
	// A thread that shares its root and working folder with others may not change its mount namespace.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("enter node %s: %w", n.Name, err)
	}
	flags := unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP
	if err := unix.Setns(pidfd, flags); err != nil {
		return fmt.Errorf("enter namespaces of node %s: %w", n.Name, err)
	}
	if unix.Chdir(cwd) != nil && unix.Chdir(l.Dir) != nil {
		if err := unix.Chdir("/"); err != nil {
			return fmt.Errorf("enter node %s: %w", n.Name, err)
		}
	}
	if argv[0] == Self || argv[0] == "plumb" {
		argv = append([]string{"plumb"}, argv[1:]...)
		err = syscall.Exec(Self, argv, os.Environ())
		return fmt.Errorf("run plumb in node %s: %w", n.Name, err)
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return fmt.Errorf("run in node %s: %w", n.Name, err)
	}
	if err := syscall.Exec(path, argv, os.Environ()); err != nil {
		return fmt.Errorf("run %s in node %s: %w", path, n.Name, err)
	}
	return nil
}

// Command is argv as a child process in a node of the lab.
func (l *Lab) Command(ctx context.Context, node string, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, Self)
	cmd.Args = append([]string{argEnter, l.Name, node}, argv...)
	return cmd
}

func enterByName(name, node string, argv []string) error {
	l, err := Open(name)
	if err != nil {
		return err
	}
	return l.Exec(node, argv)
}
