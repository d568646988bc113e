package kindtest

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
)

// BPFFS mounts a BPF file system for the length of a test, and gives the host a folder on it.
func BPFFS(t testing.TB, h *host.Host) {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount a BPF file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	h.BPFFS = filepath.Join(dir, "plumb", Node)
}
