package host_test

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource/addr"
	"plumb.internal/plumb/reconciler/resource/neigh"
	"plumb.internal/plumb/reconciler/resource/route"
	"plumb.internal/plumb/reconciler/resource/rule"
	"plumb.internal/plumb/reconciler/resource/sysctl"
)

// A closed host holds no descriptor: one that stayed would keep a deleted pod's namespace alive.
func TestCloseLetsGo(t *testing.T) {
	o := kindtest.Options(t)
	made := kindtest.Open(t, o)
	var settings []sysctl.Sysctl
	for i := range 10 {
		name := fmt.Sprintf("pod%d", i)
		kindtest.Pod(t, made, name)
		settings = append(settings, sysctl.Sysctl{NetNS: name, Key: "net.ipv4.ip_forward", Value: "1"})
	}
	count := func() int {
		t.Helper()
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	look := func() {
		t.Helper()
		h, err := host.Open(o)
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close()
		for range 2 {
			h.Forget()
			_, _, err1 := (addr.Ops{}).Observe(t.Context(), h, nil)
			_, _, err2 := (route.Ops{}).Observe(t.Context(), h, nil)
			_, _, err3 := (rule.Ops{}).Observe(t.Context(), h, nil)
			_, _, err4 := (neigh.Ops{}).Observe(t.Context(), h, nil)
			_, _, err5 := (sysctl.Ops{}).Observe(t.Context(), h, settings)
			for _, err := range []error{err1, err2, err3, err4, err5} {
				if err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	look()
	before := count()
	for range 5 {
		look()
	}
	// The threads of a closed host let go of the root namespace a moment later than Close returns.
	deadline := time.Now().Add(5 * time.Second)
	for count() > before {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors, then %d", before, count())
		}
		runtime.Gosched()
	}
}
