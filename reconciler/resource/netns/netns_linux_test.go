package netns_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	low "plumb.internal/plumb/internal/netns"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/netns"
)

func TestConformance(t *testing.T) {
	kindtest.Run(t, kindtest.Kind[netns.NetNS]{
		Ops:     netns.Ops{},
		Samples: []netns.NetNS{{Name: "web"}, {Name: "db"}},
		Foreign: foreign,
	})
}

// foreign binds a namespace without our mark to the name of r.
func foreign(t *testing.T, h *host.Host, r netns.NetNS) func(*testing.T) {
	f := kindtest.Namespace(t)
	id, err := low.FD(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(h.NetNSDir, r.Name)
	if err := os.MkdirAll(h.NetNSDir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := low.Bind(f, path); err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T) {
		if now, err := low.Stat(path); err != nil || now != id {
			t.Errorf("the foreign namespace is %v now (%v), was %v", now, err, id)
		}
	}
}

// observe looks afresh and returns what is ours, by name.
func observe(t *testing.T, h *host.Host, wanted ...netns.NetNS) (owned map[string]netns.NetNS, foreign []netns.NetNS) {
	t.Helper()
	h.Forget()
	for _, w := range wanted {
		if w.Path != "" {
			h.Adopt(w.Name, w.Path)
		}
	}
	list, foreign, err := netns.Ops{}.Observe(t.Context(), h, wanted)
	if err != nil {
		t.Fatal(err)
	}
	owned = map[string]netns.NetNS{}
	for _, n := range list {
		owned[n.Name] = n
	}
	return owned, foreign
}

// What somebody does to lo is noticed and mended, as long as one half of the mark is left.
func TestDriftOfLo(t *testing.T) {
	h := kindtest.Root(t)
	web := netns.NetNS{Name: "web"}
	kindtest.Pod(t, h, "web")
	ns, err := h.NS("web")
	if err != nil {
		t.Fatal(err)
	}
	lo, err := ns.Link("lo")
	if err != nil {
		t.Fatal(err)
	}
	for what, damage := range map[string]func() error{
		"down":    func() error { return ns.Handle().LinkSetDown(lo) },
		"group":   func() error { return ns.Handle().LinkSetGroup(lo, 0) },
		"alias":   func() error { return ns.Handle().LinkSetAlias(lo, "") },
		"alias 2": func() error { return ns.Handle().LinkSetAlias(lo, "mine") },
		"record":  func() error { return os.Remove(h.ReservedPath("web")) },
	} {
		t.Run(what, func(t *testing.T) {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			owned, _ := observe(t, h, web)
			fields, inPlace := netns.Ops{}.Diff(owned["web"], web)
			if owned["web"].Name == "" || len(fields) == 0 || !inPlace {
				t.Fatalf("observed %+v, fields %v, in place %v", owned, fields, inPlace)
			}
			if err := (netns.Ops{}).Update(t.Context(), h, owned["web"], web); err != nil {
				t.Fatal(err)
			}
			if owned, _ = observe(t, h, web); owned["web"] != web {
				t.Errorf("after mending: %+v", owned)
			}
		})
	}
}

// A namespace goes although a process is inside, and the process is named.
func TestProcessInside(t *testing.T) {
	h := kindtest.Root(t)
	kindtest.Pod(t, h, "web")
	ns, err := h.NS("web")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sleep", "60")
	if err := ns.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait() // says that it was killed
	}()
	if err := (netns.Ops{}).Delete(t.Context(), h, netns.NetNS{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	if w := h.Warnings(); len(w) != 1 || !strings.Contains(w[0], strconv.Itoa(cmd.Process.Pid)) {
		t.Errorf("warnings %q don't name process %d", w, cmd.Process.Pid)
	}
	if owned, _ := observe(t, h); len(owned) > 0 {
		t.Errorf("left over: %+v", owned)
	}
}

// An adopted namespace is recorded and let go, never made and never removed; while it is missing its pod waits.
func TestAdopted(t *testing.T) {
	h := kindtest.Root(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "container")
	db := netns.NetNS{Name: "db", Path: path}
	ops := netns.Ops{}

	if owned, foreign := observe(t, h, db); len(owned)+len(foreign) > 0 || !h.Waiting("db") {
		t.Fatalf("before there is one: owned %v, foreign %v, waiting %v", owned, foreign, h.Waiting("db"))
	}
	if _, err := h.NS("db"); !errors.Is(err, host.ErrWaiting) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a handle for a missing namespace: %v", err)
	}
	if err := ops.Create(t.Context(), h, db); !errors.Is(err, host.ErrWaiting) {
		t.Errorf("adopting a missing namespace: %v", err)
	}

	first := bind(t, path)
	if owned, _ := observe(t, h, db); len(owned) > 0 || h.Waiting("db") {
		t.Errorf("before it is recorded: owned %v, waiting %v", owned, h.Waiting("db"))
	}
	if err := ops.Create(t.Context(), h, db); err != nil {
		t.Fatal(err)
	}
	if owned, _ := observe(t, h, db); owned["db"] != db {
		t.Errorf("recorded: %+v", owned)
	}
	if ns, err := h.NS("db"); err != nil || ns.ID != first {
		t.Errorf("the handle is for %v (%v), want %v", ns, err, first)
	}

	// The container was started anew: another namespace at the same path.
	unbind(t, path)
	if owned, _ := observe(t, h, db); len(owned) > 0 || !h.Waiting("db") {
		t.Errorf("while it is gone: owned %v", owned)
	}
	if owned, _ := observe(t, h); owned["db"].Path != path {
		t.Errorf("gone and no longer wanted: owned %v, want its record", owned)
	}
	second := bind(t, path)
	owned, _ := observe(t, h, db)
	fields, inPlace := ops.Diff(owned["db"], db)
	if len(fields) == 0 || !inPlace {
		t.Fatalf("another namespace at the path: %+v, in place %v", fields, inPlace)
	}
	if err := ops.Update(t.Context(), h, owned["db"], db); err != nil {
		t.Fatal(err)
	}
	if owned, _ := observe(t, h, db); owned["db"] != db {
		t.Errorf("renewed: %+v", owned)
	}
	if ns, err := h.NS("db"); err != nil || ns.ID != second {
		t.Errorf("the handle is for %v (%v), want %v", ns, err, second)
	}

	if err := ops.Delete(t.Context(), h, db); err != nil {
		t.Fatal(err)
	}
	if now, err := low.Stat(path); err != nil || now != second {
		t.Errorf("after letting go, %s is %v (%v), want %v", path, now, err, second)
	}
	writes := h.Writes()
	if err := ops.Delete(t.Context(), h, db); err != nil || h.Writes() != writes {
		t.Errorf("letting go again: %v, and %d writes", err, h.Writes()-writes)
	}
	if owned, _ := observe(t, h); len(owned) > 0 {
		t.Errorf("left over: %+v", owned)
	}
}

// The node's own root namespace can't be adopted.
func TestAdoptingTheRoot(t *testing.T) {
	h := kindtest.Root(t)
	db := netns.NetNS{Name: "db", Path: h.RootNS}
	owned, foreign := observe(t, h, db)
	if len(owned) > 0 || len(foreign) != 1 {
		t.Fatalf("owned %v, foreign %v", owned, foreign)
	}
	conflicts := netns.Ops{}.Conflicts(resource.State{db.ID(): db}, foreign)
	if len(conflicts) != 1 || !strings.Contains(conflicts[0].Owner, "root") {
		t.Errorf("conflicts %+v", conflicts)
	}
}

// A name that was ours and is a plain file now is taken up again; one that never was ours is left alone.
func TestPlainFile(t *testing.T) {
	h := kindtest.Root(t)
	web := netns.NetNS{Name: "web"}
	kindtest.Pod(t, h, "web")
	path := filepath.Join(h.NetNSDir, "web")
	h.Drop("web")
	if err := low.Unbind(path); err != nil {
		t.Fatal(err)
	}
	owned, _ := observe(t, h, web)
	if _, inPlace := (netns.Ops{}).Diff(owned["web"], web); !inPlace || owned["web"].Faults == "" {
		t.Fatalf("a dead file of ours: %+v", owned)
	}
	if err := (netns.Ops{}).Update(t.Context(), h, owned["web"], web); err != nil {
		t.Fatal(err)
	}
	if owned, _ = observe(t, h, web); owned["web"] != web {
		t.Errorf("taken up again: %+v", owned)
	}
	other := filepath.Join(h.NetNSDir, "other")
	if err := os.WriteFile(other, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, foreign := observe(t, h, netns.NetNS{Name: "other"})
	if len(foreign) != 1 || foreign[0].Owner != "a plain file" {
		t.Errorf("foreign %+v", foreign)
	}
	if err := (netns.Ops{}).Create(t.Context(), h, netns.NetNS{Name: "other"}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create over a plain file: %v", err)
	}
	if err := (netns.Ops{}).Delete(t.Context(), h, netns.NetNS{Name: "other"}); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(other); err != nil || string(b) != "mine" {
		t.Errorf("the file holds %q now (%v)", b, err)
	}
}

// bind makes a namespace that path names, as a container engine does.
func bind(t *testing.T, path string) low.ID {
	t.Helper()
	f := kindtest.Namespace(t)
	id, err := low.FD(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := low.Bind(f, path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := low.Unbind(path); err != nil {
			t.Error(err)
		}
	})
	return id
}

func unbind(t *testing.T, path string) {
	t.Helper()
	if err := low.Unbind(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
