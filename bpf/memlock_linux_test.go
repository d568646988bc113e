package bpf

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/kindtest"
)

// A process that may lock no memory loads programs as any other does: their maps have names, by which plumb tells the one
// with the constants. Kernels before 5.11 count maps as locked memory; for the others this is no test. It runs in a process
// of its own, since what the library finds out about the kernel it never asks again.
func TestNoLockedMemory(t *testing.T) {
	kindtest.NeedRoot(t)
	const inside = "PLUMB_TEST_NO_LOCKED_MEMORY"
	if os.Getenv(inside) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestNoLockedMemory$", "-test.v")
		cmd.Env = append(os.Environ(), inside+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	var limit unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, nil, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = 0
	if err := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &limit, nil); err != nil {
		t.Fatal(err)
	}
	pinned := map[string]*ebpf.Map{}
	for _, base := range Uses("forward", "from_pod") {
		m, err := NewMap(base, 8)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		pinned[base] = m
	}
	p, err := Load("forward", "from_pod", map[string]uint32{"redirect": 1, "source_check": 1}, pinned)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	ids, ok := info.MapIDs()
	if !ok || len(ids) != len(pinned)+1 {
		t.Fatalf("maps of the program: %v, %v", ids, ok)
	}
	constants := 0
	for _, id := range ids {
		m, err := ebpf.NewMapFromID(id)
		if err != nil {
			t.Fatal(err)
		}
		info, err := m.Info()
		m.Close()
		if err != nil {
			t.Fatal(err)
		}
		if info.Name == "" {
			t.Errorf("map %d has no name", id)
		}
		if strings.HasSuffix(info.Name, "rodata") {
			constants++
		}
	}
	if constants != 1 {
		t.Errorf("%d maps of constants", constants)
	}
}
