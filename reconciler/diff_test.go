package reconciler

import (
	"bytes"
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/reconciler/resource/netns"
	"plumb.internal/plumb/reconciler/resource/route"
)

var update = flag.Bool("update", false, "rewrite golden files")

func ip(s string) netip.Addr       { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// golden compares got with a file in testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s differs (-want +got):\n%s", path, d)
	}
}

// TestPlans compares whole plans, as text in the plan's own order and as people see it.
func TestPlans(t *testing.T) {
	web, db := fakePod{name: "web", attach: "veth", ip: 10}, fakePod{name: "db", attach: "veth", ip: 20}
	with := func(p fakePod, f func(*fakePod)) fakePod { f(&p); return p }
	for _, c := range []struct {
		name     string
		from, to resource.State
	}{
		{"create", state(), state(web)},
		{"nothing", state(web), state(web)},
		{"attach", state(web, db), state(with(web, func(p *fakePod) { p.attach = "macvlan-bridge" }), db)},
		{"bridge-to-veth", state(with(web, func(p *fakePod) { p.attach = "bridge" })), state(web)},
		{"mtu", state(web), state(with(web, func(p *fakePod) { p.mtu = 9000 }))},
		{"address", state(web), state(with(web, func(p *fakePod) { p.ip = 11 }))},
		{"drop-pod", state(web, db), state(web)},
		{"adopted-gone", state(web, with(db, func(p *fakePod) { p.adopted = "/proc/4242/ns/net" })), state(web)},
		{"adopted-moved", state(with(db, func(p *fakePod) { p.adopted = "/proc/4242/ns/net" })),
			state(with(db, func(p *fakePod) { p.adopted = "/proc/4343/ns/net" }))},
		{"claims", state(with(web, func(p *fakePod) { p.attach = "macvlan-bridge" }), with(db, func(p *fakePod) { p.attach = "macvlan-bridge" })),
			state(with(web, func(p *fakePod) { p.attach = "ipvlan-l2" }), with(db, func(p *fakePod) { p.attach = "ipvlan-l2" }))},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := newFake()
			k.objects = c.from
			p, err := k.plan(t.Context(), c.to)
			if err != nil {
				t.Fatal(err)
			}
			p.Node, p.Kernel = "edge-1", "6.18.5"
			var b bytes.Buffer
			b.WriteString("# in the order of the apply\n")
			for _, c := range p.Changes {
				b.WriteString(c.Action.Symbol() + " " + c.ID.String() + "  # " + c.Reason + "\n")
			}
			b.WriteString("\n# steps\n")
			g := newGraph(p.Changes)
			order, _ := g.sorted()
			for _, s := range order {
				if g.steps[s].op != opBarrier {
					b.WriteString(string(g.steps[s].op.action()) + " " + g.steps[s].id.String() + "\n")
				}
			}
			b.WriteString("\n# text\n")
			if err := p.WriteText(&b, resource.TextOptions{}); err != nil {
				t.Fatal(err)
			}
			golden(t, c.name+".txt", b.Bytes())
			if err := k.table().apply(t.Context(), nil, p, ApplyOptions{Parallel: 1}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestWaiting leaves a pod out whose adopted namespace isn't there, and the host's route to it.
func TestWaiting(t *testing.T) {
	s := state(fakePod{name: "web", attach: "veth", ip: 10}, fakePod{name: "db", attach: "veth", ip: 20, adopted: "/proc/4242/ns/net"})
	p, err := newFake().table().diff(s, &Observed{Waiting: map[string]string{"db": "/proc/4242/ns/net"}})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"pod db waits for /proc/4242/ns/net"}, p.Warnings); d != "" {
		t.Error(d)
	}
	for _, c := range p.Changes {
		if resource.Pod(c.After) == "db" {
			t.Errorf("%s is planned for a pod that waits", c.ID)
		}
	}
}

// TestConflicts names a foreign object under a desired ID, and stops before the first write.
func TestConflicts(t *testing.T) {
	k := newFake()
	k.foreign = []resource.Resource{
		link.Link{NetNS: "web", Name: "eth0", Type: "veth", MTU: 1500},
		route.Route{Dst: prefix("192.0.2.0/24"), Table: route.MainTable, Dev: "x"}, // in nobody's way
	}
	p, err := k.converge(t.Context(), state(fakePod{name: "web", attach: "veth", ip: 10}), 1)
	if _, ok := errors.AsType[*ConflictError](err); !ok || !strings.Contains(err.Error(), "web/eth0") {
		t.Fatalf("error %v, want a conflict that names web/eth0", err)
	}
	if len(p.Conflicts) != 1 || p.Conflicts[0].Foreign != "link eth0 type veth mtu 1500" {
		t.Errorf("conflicts %+v", p.Conflicts)
	}
	if len(k.calls) != 0 {
		t.Errorf("wrote in spite of a conflict: %v", k.calls)
	}
}

// TestMistakes are states that can't be planned.
func TestMistakes(t *testing.T) {
	for _, c := range []struct {
		name, want string
		state      resource.State
	}{
		{"circle", "link a -> link b -> link a", resource.State{
			link.For("", "a"): link.Link{Name: "a", Parent: "b"},
			link.For("", "b"): link.Link{Name: "b", Parent: "a"},
		}},
		{"claims", "wants it as ipvlan l2", resource.State{
			link.For("", "a"): link.Link{Name: "a", Type: "macvlan", Mode: "bridge", Parent: "up0"},
			link.For("", "b"): link.Link{Name: "b", Type: "ipvlan", Mode: "l2", Parent: "up0"},
		}},
	} {
		_, err := newFake().table().diff(c.state, &Observed{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := (table{}).diff(resource.State{netns.For("web"): netns.NetNS{Name: "web"}}, &Observed{}); err == nil {
		t.Error("a kind that isn't in the table was planned")
	}
}
