package host

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMount(t *testing.T) {
	path, err := Mount("proc")
	if err != nil || path != "/proc" {
		t.Errorf("proc is mounted at %q, %v", path, err)
	}
	if _, err := Mount("no-such-type"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a type that isn't mounted gives %v", err)
	}
	if path, err := MountOr("no-such-type", "/there"); err != nil || path != "/there" {
		t.Errorf("got %q, %v", path, err)
	}
}

// A mount that another one covers can't be reached: it isn't where the file system is mounted.
func TestMountCovered(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this test needs root")
		}
		t.Skip("this test needs root")
	}
	if path, err := Mount("ramfs"); err == nil {
		t.Skipf("a ramfs is mounted on this machine, at %s", path)
	}
	dir := t.TempDir()
	below := filepath.Join(dir, "below")
	mount := func(fstype, path string) {
		t.Helper()
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("none", path, fstype, 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(path, 0); err != nil {
				t.Error(err)
			}
		})
	}
	mount("ramfs", below)
	if path, err := Mount("ramfs"); err != nil || path != below {
		t.Errorf("found at %q, %v", path, err)
	}
	mount("tmpfs", dir)
	if path, err := Mount("ramfs"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a covered one is found at %q, %v", path, err)
	}
}

func TestUnescape(t *testing.T) {
	for escaped, want := range map[string]string{
		`/sys/fs/bpf`:             "/sys/fs/bpf",
		`/mnt/a\040b\011c\012d`:   "/mnt/a b\tc\nd",
		`/mnt/\134040\134\134`:    `/mnt/\040\\`,
		`/mnt/hash\043and\040so`:  "/mnt/hash#and so",
		`/mnt/not\777an\escape\0`: `/mnt/not\777an\escape\0`,
	} {
		if got := unescape(escaped); got != want {
			t.Errorf("%s is read as %q, want %q", escaped, got, want)
		}
	}
}
