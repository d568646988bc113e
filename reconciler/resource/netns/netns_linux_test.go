package netns_test

import (
	"os"
	"path/filepath"
	"testing"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	low "plumb.internal/plumb/internal/netns"
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
