package netns_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource/netns"
)

// In a private mount namespace, as systemd makes one for PrivateTmp and the like, the name of a namespace would be a dead
// file for everybody outside: that is refused, and nothing stays behind.
func TestPrivateMountNamespace(t *testing.T) {
	const folder = "PLUMB_TEST_FOLDER"
	if dir := os.Getenv(folder); dir != "" {
		h := kindtest.Open(t, host.Options{Node: kindtest.Node, RunDir: filepath.Join(dir, "run"), NetNSDir: filepath.Join(dir, "netns")})
		err := netns.Ops{}.Create(t.Context(), h, netns.NetNS{Name: "web"})
		if err == nil || !strings.Contains(err.Error(), "private mount namespace") {
			t.Errorf("error is %v", err)
		}
		return
	}
	kindtest.NeedRoot(t)
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestPrivateMountNamespace$", "-test.v")
	cmd.Env = append(os.Environ(), folder+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestPrivateMountNamespace") {
		t.Errorf("%v\n%s", err, out)
	}
	for _, name := range []string{"netns/web", "run/netns/web"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); !os.IsNotExist(err) {
			t.Errorf("%s is left over (%v)", name, err)
		}
	}
}
