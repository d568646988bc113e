package host_test

import (
	"errors"
	"io/fs"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/internal/netns"
)

// Wherever a run is cut off that makes the folder of namespaces ready, the next one ends with a shared mount, and the last
// namespace to go takes everything away.
func TestFolderCutOff(t *testing.T) {
	kindtest.NeedRoot(t)
	o := kindtest.Options(t)
	use := func(h *host.Host) error { return h.InFolder(func() error { return nil }) }
	for n := 1; ; n++ {
		h := kindtest.Open(t, o)
		cut := ""
		func() {
			defer func() { recover() }()
			h.OnWrite = func(i int, what string) {
				if i == n {
					cut = what
					panic(cut)
				}
			}
			if err := use(h); err != nil {
				t.Fatal(err)
			}
		}()
		h = kindtest.Open(t, o)
		if err := use(h); err != nil {
			t.Fatalf("cut off before %q: %v", cut, err)
		}
		if mount, shared, err := netns.Mounted(o.NetNSDir); !mount || !shared || err != nil {
			t.Errorf("cut off before %q: mount %v, shared %v, %v", cut, mount, shared, err)
		}
		if err := h.UnshareFolder(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(o.NetNSDir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("cut off before %q: the folder is still there: %v", cut, err)
		}
		if cut == "" {
			if n < 6 {
				t.Errorf("only %d writes are announced", n-1)
			}
			return
		}
	}
}

// A mount of somebody else's at the folder stays as it is.
func TestFolderForeign(t *testing.T) {
	kindtest.NeedRoot(t)
	o := kindtest.Options(t)
	if err := os.Mkdir(o.NetNSDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", o.NetNSDir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(o.NetNSDir, unix.MNT_DETACH)
	if err := unix.Mount("", o.NetNSDir, "none", unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	h := kindtest.Open(t, o)
	h.OnWrite = func(_ int, what string) { t.Errorf("wrote: %s", what) }
	if err := h.InFolder(func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := h.UnshareFolder(); err != nil {
		t.Fatal(err)
	}
	if mount, shared, err := netns.Mounted(o.NetNSDir); !mount || shared || err != nil {
		t.Errorf("mount %v, shared %v, %v", mount, shared, err)
	}
}
