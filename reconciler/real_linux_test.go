package reconciler_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/schema"
)

// adopt makes a namespace that somebody else owns, and returns its path.
func adopt(t testing.TB) string {
	t.Helper()
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), kindtest.Namespace(t).Fd())
}

// converge opens a host of its own, as each run of plumb does, and applies.
func converge(t testing.TB, o host.Options, s resource.State) error {
	t.Helper()
	h, err := host.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	return reconciler.Converge(t.Context(), h, s)
}

// destroy opens a host of its own and removes everything.
func destroy(t testing.TB, o host.Options) {
	t.Helper()
	h, err := host.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := planAndDestroy(t.Context(), h, reconciler.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{o.RunDir, o.NetNSDir, o.BPFFS} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("destroy left %s", path)
		}
	}
}

func planAndDestroy(ctx context.Context, h *host.Host, opt reconciler.ApplyOptions) error {
	p, _, err := reconciler.PlanDestroy(ctx, h)
	if err != nil {
		return err
	}
	return reconciler.Destroy(ctx, h, p, opt)
}

// TestRealDestroyAsShown destroys what the plan showed; what came afterwards is left, and said to be.
func TestRealDestroyAsShown(t *testing.T) {
	o := kindtest.Options(t)
	if err := converge(t, o, compile(t, map[string]schema.Pod{"one": {Attach: "veth"}})); err != nil {
		t.Fatal(err)
	}
	h := kindtest.Open(t, o)
	p, _, err := reconciler.PlanDestroy(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	if err := converge(t, o, compile(t, map[string]schema.Pod{"one": {Attach: "veth"}, "two": {Attach: "veth"}})); err != nil {
		t.Fatal(err)
	}
	err = reconciler.Destroy(t.Context(), h, p, reconciler.ApplyOptions{})
	if _, ok := errors.AsType[*reconciler.NotConvergedError](err); !ok {
		t.Errorf("error %v, want what was not converged", err)
	}
	if _, err := h.NS("two"); err != nil {
		t.Errorf("a pod that the plan doesn't name: %v", err)
	}
	destroy(t, o)
}

// TestRealSecondApply makes no write the second time, as counted by the host.
func TestRealSecondApply(t *testing.T) {
	o := kindtest.Options(t)
	path := adopt(t)
	s := everything(t, path)
	before := dump(t, o, settings(s), path)
	if err := converge(t, o, s); err != nil {
		t.Fatal(err)
	}
	h := kindtest.Open(t, o)
	h.OnWrite = func(_ int, what string) { t.Errorf("the second apply wrote: %s", what) }
	if err := reconciler.Converge(t.Context(), h, s); err != nil {
		t.Fatal(err)
	}
	if h.Writes() != 0 {
		t.Errorf("%d writes", h.Writes())
	}
	destroy(t, o)
	if d := cmp.Diff(before, dump(t, o, settings(s), path)); d != "" {
		t.Errorf("destroy left or changed (-before +after):\n%s", d)
	}
}

// TestRealForeign stops before the first write where somebody's link has a pod's name, and never touches it.
// TestRealUnmarked clears the group of our bridge, of which nothing else is lost: it is healed, and its own addresses and
// routes aren't taken for somebody else's.
func TestRealUnmarked(t *testing.T) {
	o := kindtest.Options(t)
	s := everything(t, "")
	if err := converge(t, o, s); err != nil {
		t.Fatal(err)
	}
	before := dump(t, o, settings(s))
	h := kindtest.Open(t, o)
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	cleared := 0
	for id, r := range s {
		if l, ok := r.(link.Link); !ok || l.Type != link.Bridge {
			continue
		}
		bridge, err := ns.Link(id.Name)
		if err != nil {
			t.Fatal(err)
		}
		if err := ns.Handle().LinkSetGroup(bridge, 0); err != nil {
			t.Fatal(err)
		}
		cleared++
	}
	if cleared == 0 {
		t.Fatal("no bridge is among the objects")
	}
	if d := cmp.Diff(before, dump(t, o, settings(s))); d == "" {
		t.Fatal("the mark is still there")
	}
	if err := converge(t, o, s); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(before, dump(t, o, settings(s))); d != "" {
		t.Errorf("not healed:\n%s", d)
	}
	destroy(t, o)
}

func TestRealForeign(t *testing.T) {
	o := kindtest.Options(t)
	s := everything(t, "")
	h := kindtest.Open(t, o)
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	var bridge string
	for id, r := range s {
		if l, ok := r.(link.Link); ok && l.Type == link.Bridge {
			bridge = id.Name
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridge
	if err := ns.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	before := dump(t, o, settings(s))
	h.OnWrite = func(_ int, what string) { t.Errorf("wrote: %s", what) }
	err = reconciler.Converge(t.Context(), h, s)
	if conflict, ok := errors.AsType[*reconciler.ConflictError](err); !ok || !strings.Contains(conflict.Error(), bridge) {
		t.Errorf("error %v, want a conflict that names %s", err, bridge)
	}
	if d := cmp.Diff(before, dump(t, o, settings(s))); d != "" {
		t.Errorf("something was touched:\n%s", d)
	}
}

// TestLock refuses a second one and names the holder; a destroy of the folder frees it.
func TestLock(t *testing.T) {
	kindtest.NeedRoot(t)
	h := kindtest.Open(t, host.Options{Node: "n", RunDir: filepath.Join(t.TempDir(), "run", "n"), NetNSDir: t.TempDir()})
	unlock, err := reconciler.Lock(h)
	if err != nil {
		t.Fatal(err)
	}
	_, err = reconciler.Lock(h)
	if locked, ok := errors.AsType[*reconciler.LockedError](err); !ok || locked.PID != os.Getpid() {
		t.Errorf("error %v, want one that names process %d", err, os.Getpid())
	}
	unlock()
	again, err := reconciler.Lock(h)
	if err != nil {
		t.Fatal(err)
	}
	again()
}
