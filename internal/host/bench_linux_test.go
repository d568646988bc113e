package host_test

import (
	"fmt"
	"testing"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/reconciler/resource/netns"
)

// BenchmarkEntries reads every table of a host with 300 pods: once with fresh handles, as a command does, and once with
// those that are there, as a daemon does.
func BenchmarkEntries(b *testing.B) {
	h := kindtest.Root(b)
	const pods = 300
	for i := range pods {
		pod := fmt.Sprintf("p%d", i)
		if err := (netns.Ops{}).Create(b.Context(), h, netns.NetNS{Name: pod}); err != nil {
			b.Fatal(err)
		}
		l := link.Link{NetNS: pod, Name: "eth0", Type: link.Veth, Peer: &link.Peer{Name: "v" + pod}}
		if err := (link.Ops{}).Create(b.Context(), h, l); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("fresh", func(b *testing.B) {
		for b.Loop() {
			again, err := host.Open(h.Options)
			if err != nil {
				b.Fatal(err)
			}
			if names, err := again.Namespaces(b.Context()); err != nil || len(names) != pods+1 {
				b.Fatal(len(names), err)
			}
			again.Close()
		}
	})
	b.Run("again", func(b *testing.B) {
		for b.Loop() {
			h.Forget()
			if names, err := h.Namespaces(b.Context()); err != nil || len(names) != pods+1 {
				b.Fatal(len(names), err)
			}
		}
	})
	b.Run("links", func(b *testing.B) {
		for b.Loop() {
			if owned, _, err := (link.Ops{}).Observe(b.Context(), h, nil); err != nil || len(owned) != pods {
				b.Fatal(len(owned), err)
			}
		}
	})
	for i := range pods {
		if err := (netns.Ops{}).Delete(b.Context(), h, netns.NetNS{Name: fmt.Sprintf("p%d", i)}); err != nil {
			b.Fatal(err)
		}
	}
}
