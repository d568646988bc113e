package kindtest

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/memlock"
)

// BPFFS gives the host a folder on a BPF file system of its own, other than the one that it has from Root.
func BPFFS(t testing.TB, h *host.Host) {
	t.Helper()
	h.BPFFS = bpffs(t)
}

// bpffs mounts a BPF file system for the length of a test, and returns a node's folder on it. What the test puts there may
// be its own, made before anything of plumb's.
func bpffs(t testing.TB) string {
	t.Helper()
	_ = memlock.Lift()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount a BPF file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "plumb", Node)
}

// cgroup makes a cgroup for the length of a test, below the mount of the hierarchy; "" where none is mounted.
func cgroup(t testing.TB) string {
	t.Helper()
	top, err := host.Mount("cgroup2")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		return ""
	}
	dir, err := os.MkdirTemp(top, "plumb-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
