package host_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
)

// TestJoinCgroup lets a child process join: it must not take the test itself along.
func TestJoinCgroup(t *testing.T) {
	if dir := os.Getenv("PLUMB_TEST_JOIN"); dir != "" {
		h := &host.Host{Options: host.Options{Cgroup: dir}}
		for range 2 {
			if err := h.JoinCgroup(); err != nil {
				t.Fatal(err)
			}
		}
		data, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(data, []byte("/"+filepath.Base(dir)+"\n")) {
			t.Errorf("not in %s but in\n%s", dir, data)
		}
		return
	}
	kindtest.NeedRoot(t)
	mount, err := host.Mount("cgroup2")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(mount, "plumb-test-join-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestJoinCgroup$", "-test.v")
	cmd.Env = append(os.Environ(), "PLUMB_TEST_JOIN="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestJoinCgroup") {
		t.Errorf("%v\n%s", err, out)
	}
}
