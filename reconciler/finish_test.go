package reconciler

import (
	"context"
	"errors"
	"strings"
	"testing"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/reconciler/resource/netns"
)

// finishing is a kind that has something to do at the end of an apply.
type finishing struct {
	fakeOps[netns.NetNS]
	ends *int
}

var errEnd = errors.New("no end")

func (f finishing) Finish(context.Context, *host.Host) error {
	*f.ends++
	return errEnd
}

// A kind finishes once for all its changes, also after one that failed, and its error is the apply's.
func TestFinish(t *testing.T) {
	k, ends := newFake(), 0
	k.refuse = func(id resource.ID) bool { return id.Name == "bad" }
	kinds := k.table()
	kinds[netns.Kind] = of(finishing{fakeOps[netns.NetNS]{k, netns.Kind}, &ends})
	p := &resource.Plan{}
	for _, name := range []string{"a", "b", "bad"} {
		r := netns.NetNS{Name: name}
		p.Changes = append(p.Changes, resource.Change{ID: r.ID(), Action: resource.Create, After: r})
	}
	err := kinds.apply(t.Context(), &host.Host{}, p, ApplyOptions{})
	if !errors.Is(err, errEnd) || !errors.Is(err, errFault) {
		t.Errorf("error %v", err)
	}
	if ends != 1 {
		t.Errorf("finished %d times", ends)
	}
}

// A plan whose steps wait for each other touches nothing; no plan of Diff is like that, but one in a file may be.
func TestCircle(t *testing.T) {
	k := newFake()
	p := &resource.Plan{}
	for _, l := range []link.Link{{Name: "a", Parent: "b"}, {Name: "b", Parent: "a"}, {Name: "c"}} {
		p.Changes = append(p.Changes, resource.Change{ID: l.ID(), Action: resource.Create, After: l})
	}
	err := k.table().apply(t.Context(), &host.Host{}, p, ApplyOptions{})
	if err == nil || !strings.Contains(err.Error(), "wait for each other: link ") || len(k.calls) > 0 {
		t.Errorf("error %v after %d calls", err, len(k.calls))
	}
}
