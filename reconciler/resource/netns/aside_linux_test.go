package netns_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	low "plumb.internal/plumb/internal/netns"
	"plumb.internal/plumb/reconciler/resource/netns"
)

// stopped is what OnWrite panics with where a kill is played.
type stopped struct{}

// until runs f and stops before its write number n; it reports whether f came to its end.
func until(t *testing.T, h *host.Host, n int, f func() error) (ended bool) {
	t.Helper()
	start := h.Writes()
	h.OnWrite = func(i int, _ string) {
		if i-start == n {
			panic(stopped{})
		}
	}
	defer func() {
		h.OnWrite = nil
		if p := recover(); p != nil {
			if _, ok := p.(stopped); !ok {
				panic(p)
			}
		}
	}()
	if err := f(); err != nil {
		t.Fatal(err)
	}
	return true
}

// A namespace that is deleted by an apply which may be taken back is the same one when it comes back, wherever deleting and
// bringing back are cut off.
func TestAside(t *testing.T) {
	o := kindtest.Options(t)
	web := netns.NetNS{Name: "web"}
	path := filepath.Join(o.NetNSDir, "web")
	ops := netns.Ops{}
	for del, ended := 1, false; !ended; del++ {
		for back, backEnded := 1, false; !backEnded; back++ {
			func() {
				h := kindtest.Open(t, o)
				kindtest.Pod(t, h, "web")
				want, err := low.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				h.Keep.Store(true)
				ended = until(t, h, del, func() error { return ops.Delete(t.Context(), h, web) })
				h.Keep.Store(false)
				if _, err := low.Stat(path); ended && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("it is still there: %v", err)
				}
				converge := func(h *host.Host) error {
					h.Forget()
					owned, _, err := ops.Observe(t.Context(), h, []netns.NetNS{web})
					switch {
					case err != nil:
						return err
					case len(owned) == 0:
						return ops.Create(t.Context(), h, web)
					case owned[0].Faults != "":
						return ops.Update(t.Context(), h, owned[0], web)
					}
					return nil
				}
				backEnded = until(t, h, back, func() error { return converge(h) })
				again := kindtest.Open(t, o)
				if err := converge(again); err != nil {
					t.Fatal(err)
				}
				if now, err := low.Stat(path); err != nil || now != want {
					t.Fatalf("cut off before write %d of deleting and %d of bringing back: namespace %v became %v, %v", del, back, want, now, err)
				}
				if err := netns.DropAside(again); err != nil {
					t.Fatal(err)
				}
				if _, err := os.Lstat(again.Path("aside")); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("something is left: %v", err)
				}
				if len(again.Warnings()) > 0 {
					t.Error("it warns of a namespace that is back")
				}
				again.Forget()
				if err := ops.Delete(t.Context(), again, web); err != nil {
					t.Fatal(err)
				}
			}()
		}
	}
}

// When nobody takes the apply back, nothing is left of what was set aside, and another namespace may have had the name.
func TestAsideDropped(t *testing.T) {
	h := kindtest.Root(t)
	ops, web := netns.Ops{}, netns.NetNS{Name: "web"}
	var ids []low.ID
	for range 2 {
		kindtest.Pod(t, h, "web")
		id, err := low.Stat(filepath.Join(h.NetNSDir, "web"))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
		h.Keep.Store(true)
		if err := ops.Delete(t.Context(), h, web); err != nil {
			t.Fatal(err)
		}
		h.Keep.Store(false)
		if id, err := low.Stat(h.Path("aside", "web")); err != nil || id != ids[len(ids)-1] {
			t.Fatalf("set aside is %v, %v, not %v", id, err, ids)
		}
		h.Forget()
		if len(ids) == 1 {
			if err := netns.DropAside(h); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := netns.DropAside(h); err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{h.Path("aside"), h.Path("netns", "web"), filepath.Join(h.NetNSDir, "web")} {
		if _, err := os.Lstat(left); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("left over: %s (%v)", left, fmt.Sprint(err))
		}
	}
}
