package lanes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/features"
)

// Ground is what all beds stand on: folders in a mount namespace of this process's own, which goes with it.
type Ground struct {
	Features *features.Set // of this kernel
	Queues   int           // that uplinks send by; 0: one
	dir      string        // a file system in memory
	bpffs    string        // another one
	cgroups  string        // the folder of this process's cgroups
	made     int           // beds
}

// IsChild does what this process was started for, and reports true, if that isn't to measure. Every main begins with it.
func IsChild() bool {
	if len(os.Args) > 1 && os.Args[1] == "-child" {
		child(os.Args[2:])
		return true
	}
	return compiler.RunEvaluator()
}

// Main runs measure on a ground, says what went wrong, and exits.
func Main(measure func(context.Context, *Ground) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	var err error
	switch {
	case os.Getuid() != 0:
		err = errors.New("network namespaces need root")
	case os.Getenv(inside) == "":
		err = alone(ctx)
		if exit := new(exec.ExitError); errors.As(err, &exit) { // and has said why
			os.Exit(max(exit.ExitCode(), 1))
		}
	default:
		var g *Ground
		if g, err = newGround(ctx); err == nil {
			err = errors.Join(measure(ctx, g), g.close())
		}
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", filepath.Base(os.Args[0]), err)
		os.Exit(1)
	}
}

// alone runs this program again in a mount namespace of its own, and returns how that ended.
func alone(ctx context.Context) error {
	c := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
	c.Args[0] = os.Args[0]
	c.Cancel = func() error { return c.Process.Signal(unix.SIGTERM) }
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.Env = append(os.Environ(), inside+"=1")
	c.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	return c.Run()
}

// inside is set in the environment of a process that has its own mount namespace.
const inside = "BENCH_LANES_INSIDE"

func newGround(ctx context.Context) (g *Ground, err error) {
	g = &Ground{dir: filepath.Join(os.TempDir(), fmt.Sprintf("bench-lanes-%d", os.Getpid()))}
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
	g.Features, err = features.Probe(ctx)
	return g, err
}

// close removes what a mount namespace doesn't take along.
func (g *Ground) close() error {
	_ = unix.Unmount(g.dir, unix.MNT_DETACH)
	err := os.Remove(g.dir)
	if g.cgroups != "" {
		err = errors.Join(err, os.Remove(g.cgroups))
	}
	return err
}

// cgroup makes a cgroup for a bed's processes.
func (g *Ground) cgroup(name string) (*os.File, error) {
	dir := filepath.Join(g.cgroups, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a cgroup: %w", err)
	}
	return os.Open(dir)
}
