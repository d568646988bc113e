package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/features"
)

// ground is what all beds stand on: folders in a mount namespace of this process's own, which goes with it.
type ground struct {
	dir      string // a file system in memory
	bpffs    string // another one
	cgroups  string // the folder of this process's cgroups
	features *features.Set
	made     int
}

// alone runs this program again in a mount namespace of its own, and returns how that ended.
func alone(ctx context.Context) error {
	c := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	c.Cancel = func() error { return c.Process.Signal(unix.SIGTERM) }
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.Env = append(os.Environ(), inside+"=1")
	c.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	return c.Run()
}

// inside is set in the environment of a process that has its own mount namespace.
const inside = "BENCH_DATAPATH_INSIDE"

func newGround(ctx context.Context) (g *ground, err error) {
	g = &ground{dir: filepath.Join(os.TempDir(), fmt.Sprintf("bench-datapath-%d", os.Getpid()))}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return g, fmt.Errorf("make mounts private: %w", err)
	}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return g, err
	}
	if err := unix.Mount("tmpfs", g.dir, "tmpfs", 0, ""); err != nil {
		return g, fmt.Errorf("mount a folder: %w", err)
	}
	g.bpffs = filepath.Join(g.dir, "bpf")
	if err := os.Mkdir(g.bpffs, 0o700); err != nil {
		return g, err
	}
	if err := unix.Mount("bpf", g.bpffs, "bpf", 0, ""); err != nil {
		return g, fmt.Errorf("mount a BPF file system: %w", err)
	}
	mount, err := host.Mount("cgroup2")
	if err != nil {
		return g, err
	}
	g.cgroups = filepath.Join(mount, filepath.Base(g.dir))
	if err := os.Mkdir(g.cgroups, 0o755); err != nil {
		return g, fmt.Errorf("make a cgroup: %w", err)
	}
	g.features, err = features.Probe(ctx)
	return g, err
}

// close removes what a mount namespace doesn't take along.
func (g *ground) close() error {
	_ = unix.Unmount(g.dir, unix.MNT_DETACH)
	err := os.Remove(g.dir)
	if g.cgroups != "" {
		err = errors.Join(err, os.Remove(g.cgroups))
	}
	return err
}

// folder makes a folder for a bed.
func (g *ground) folder() (string, error) {
	g.made++
	dir := filepath.Join(g.dir, fmt.Sprintf("bed-%d", g.made))
	return dir, errors.Join(os.MkdirAll(filepath.Join(dir, "netns"), 0o755), os.Mkdir(filepath.Join(dir, "run"), 0o755))
}

// cgroup makes a cgroup for a bed's processes.
func (g *ground) cgroup() (*os.File, error) {
	dir := filepath.Join(g.cgroups, fmt.Sprintf("bed-%d", g.made+1))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a cgroup: %w", err)
	}
	return os.Open(dir)
}
