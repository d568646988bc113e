package reconciler_test

import (
	"fmt"
	"strings"
	"testing"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpflink"
	"plumb.internal/plumb/schema"
)

// TestRealSwitches looks, at every write of what opens or closes the way past the stack, at what a kill right there would leave:
// as long as it is open, the programs of both directions are there for all pods.
func TestRealSwitches(t *testing.T) {
	o := kindtest.Options(t)
	set, err := probed()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []features.Feature{features.RedirectNeigh, features.RedirectPeer} {
		if !set.Supports(f) {
			t.Skip(set.Why(f))
		}
	}
	node := func(way string, pods ...string) resource.State {
		c := schema.Config{Routing: schema.Routing{HostRouting: way}, Pods: map[string]schema.Pod{"web": {Attach: "veth"}}}
		for _, p := range pods {
			c.Pods[p] = schema.Pod{Attach: "bridge"}
		}
		return compileAll(t, c)
	}
	legacy, straight := node("legacy", "db"), node("bpf", "db")
	for _, c := range []struct {
		what   string
		to     resource.State
		opened bool // in the end
	}{
		{"all from nothing", straight, true},
		{"closed", legacy, false},
		{"opened", straight, true},
		{"a pod less", node("bpf"), true},
		{"closed, with a pod more", legacy, false},
		{"opened again", straight, true},
		{"destroyed", nil, false},
	} {
		h := kindtest.Open(t, o)
		writes, closed, opened := 0, 0, 0
		look := func(before string) {
			t.Helper()
			open, fault := leading(t, o, c.to)
			if open {
				opened++
			} else {
				closed++
			}
			if open && fault != "" {
				t.Errorf("%s, write %d (%s): packets go past the stack, and %s", c.what, writes, before, fault)
			}
		}
		h.OnWrite = func(_ int, what string) {
			writes++
			look(what)
		}
		if c.to == nil {
			err = planAndDestroy(t.Context(), h, reconciler.ApplyOptions{Parallel: 1})
		} else {
			err = one(t.Context(), h, c.to)
		}
		h.Close()
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		look("the end")
		if open, _ := leading(t, o, c.to); open != c.opened {
			t.Errorf("%s: the way past the stack is open: %v", c.what, open)
		}
		t.Logf("%s: %d writes, closed at %d, open at %d", c.what, writes, closed, opened)
		if writes < 2 {
			t.Errorf("%s: %d writes", c.what, writes)
		}
	}
}

// leading says whether the way past the stack is open, and which of the programs that it needs isn't there. Pods that leave need
// none.
func leading(t *testing.T, o host.Options, to resource.State) (open bool, fault string) {
	t.Helper()
	h := kindtest.Open(t, o)
	defer h.Close()
	maps, err := h.BPFMaps("uplinks")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range maps {
		if err := bpf.Each(m.Map, func(uint32, uint32) { open = true }); err != nil {
			t.Fatal(err)
		}
	}
	attached, _, err := (bpflink.Ops{}).Observe(t.Context(), h, nil)
	if err != nil {
		t.Fatal(err)
	}
	arrivals, pods := 0, 0
	for _, a := range attached {
		if a.Dev == "" || a.Hook != bpflink.Ingress {
			continue
		}
		if to != nil && to[a.ID()] == nil && a.Dev != "eth0" {
			pods++
			continue
		}
		if a.Fault != "" || !strings.Contains(a.Program.Name, "host_routing") {
			return open, fmt.Sprintf("%s has %s %s", a.ID(), a.Program.Name, a.Fault)
		}
		if a.Dev == "eth0" {
			arrivals++
		} else {
			pods++
		}
	}
	if arrivals != 1 || pods == 0 {
		return open, fmt.Sprintf("programs sit on %d uplinks and on the ends of %d pods", arrivals, pods)
	}
	return open, ""
}
