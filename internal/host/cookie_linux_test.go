package host_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/internal/netns"
)

// Every namespace has a cookie of its own, which stays the same; a new namespace has another one.
func TestCookies(t *testing.T) {
	if !inOwnCgroup(t) {
		return
	}
	h := kindtest.Root(t)
	var all []*host.NS
	for _, name := range []string{"", "web", "db"} {
		if name != "" {
			kindtest.Pod(t, h, name)
		}
		ns, err := h.NS(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ns)
	}
	first, err := h.Cookies(all...)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range first {
		if c == 0 || slices.Contains(first[:i], c) {
			t.Fatalf("cookies %v", first)
		}
	}
	h.Forget()
	again, err := kindtest.Open(t, h.Options).Cookies(all[0])
	if err != nil || again[0] != first[0] {
		t.Errorf("cookie %v of the root namespace, %v before (%v)", again, first, err)
	}
}

// A program tells the same cookie as the kernel does where it tells a socket itself.
func TestCookieByProgram(t *testing.T) {
	if !inOwnCgroup(t) {
		return
	}
	detach, err := host.AttachTeller()
	if err != nil {
		t.Fatal(err)
	}
	defer detach()
	var cookies []uint64
	for range 3 {
		f, err := netns.New(func() error {
			c, err := host.ToldCookie()
			if err != nil {
				return err
			}
			if again, err := host.ToldCookie(); err != nil || again != c {
				t.Errorf("cookie %d, then %d (%v)", c, again, err)
			}
			if own, err := cookieOfSocket(); err == nil && own != c {
				t.Errorf("the program tells %d, the kernel %d", c, own)
			} else if err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
				t.Error(err)
			}
			if slices.Contains(cookies, c) {
				t.Errorf("cookie %d twice, of %v", c, cookies)
			}
			cookies = append(cookies, c)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
	}
	t.Logf("cookies %v", cookies)
}

func cookieOfSocket() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	return unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
}

// inOwnCgroup runs the test in a process of its own, in a cgroup of its own: programs that it attaches to its cgroup meet
// nobody else. It reports whether this is that process; the other one has nothing left to do.
func inOwnCgroup(t *testing.T) bool {
	t.Helper()
	kindtest.NeedRoot(t)
	const inside = "PLUMB_TEST_IN_CGROUP"
	if os.Getenv(inside) != "" {
		return true
	}
	mount, err := host.Mount("cgroup2")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(mount, "plumb-test-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Errorf("remove cgroup %s: %v", filepath.Base(dir), err)
		}
	})
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
	return false
}
