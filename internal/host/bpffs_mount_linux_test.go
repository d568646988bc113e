package host_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
)

// TestMountBPFFS runs in a mount namespace of its own, on a machine where nobody has mounted a BPF file system.
func TestMountBPFFS(t *testing.T) {
	kindtest.NeedRoot(t)
	if os.Getenv("PLUMB_TEST_MOUNTS") == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("unshare", "-m", "--propagation", "private", self, "-test.run=^TestMountBPFFS$", "-test.v")
		cmd.Env = append(os.Environ(), "PLUMB_TEST_MOUNTS=own")
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: TestMountBPFFS") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	for unix.Unmount(host.BPFFSMount, unix.MNT_DETACH) == nil {
	}
	elsewhere := &host.Host{Options: host.Options{BPFFS: t.TempDir() + "/plumb/node"}}
	if err := elsewhere.MakeBPFFolder("maps"); err == nil || !strings.Contains(err.Error(), "mount -t bpf bpf") {
		t.Errorf("in a folder that is nowhere near a BPF file system: %v", err)
	}
	h := &host.Host{Options: host.Options{BPFFS: host.BPFFSMount + "/plumb/node"}}
	if err := h.NeedBPFFS(); err != nil {
		t.Errorf("before it is mounted: %v", err)
	}
	if n := h.Writes(); n != 0 {
		t.Errorf("to look took %d writes", n)
	}
	for range 2 {
		if err := h.MakeBPFFolder("maps"); err != nil {
			t.Fatal(err)
		}
	}
	if n := h.Writes(); n != 2 {
		t.Errorf("a mount and a folder took %d writes", n)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(h.BPFPath("maps"), &st); err != nil || uint32(st.Type) != unix.BPF_FS_MAGIC {
		t.Errorf("the folder is on %#x, %v", st.Type, err)
	}
}
