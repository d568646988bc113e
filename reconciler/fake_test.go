package reconciler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/addr"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/reconciler/resource/neigh"
	"plumb.internal/plumb/reconciler/resource/netns"
	"plumb.internal/plumb/reconciler/resource/route"
	"plumb.internal/plumb/reconciler/resource/rule"
	"plumb.internal/plumb/reconciler/resource/sysctl"
)

// fakeKernel holds objects of every kind and behaves as the real one does where the order of changes matters: creating
// needs the parents, a link takes along what is on it, a namespace its links, two claims exclude each other.
type fakeKernel struct {
	mu      sync.Mutex
	objects resource.State
	records map[resource.ID]bool // of sysctls; the cascade of the kernel doesn't know them
	foreign []resource.Resource
	calls   []string
	// died, once set, makes every further call fail: the process is dead.
	died   bool
	budget int        // calls until it dies; negative: never
	faults *rand.Rand // if set, one call in ten fails
	refuse func(resource.ID) bool
}

var (
	errDied  = errors.New("process died")
	errFault = errors.New("injected fault")
)

func newFake() *fakeKernel {
	return &fakeKernel{objects: resource.State{}, records: map[resource.ID]bool{}, budget: -1}
}

// table is the kernel's table of kinds.
func (k *fakeKernel) table() table {
	return table{
		netns.Kind:  of(fakeOps[netns.NetNS]{k, netns.Kind}),
		link.Kind:   of(fakeOps[link.Link]{k, link.Kind}),
		addr.Kind:   of(fakeOps[addr.Addr]{k, addr.Kind}),
		route.Kind:  of(fakeOps[route.Route]{k, route.Kind}),
		rule.Kind:   of(fakeOps[rule.Rule]{k, rule.Kind}),
		neigh.Kind:  of(fakeOps[neigh.Neigh]{k, neigh.Kind}),
		sysctl.Kind: of(fakeOps[sysctl.Sysctl]{k, sysctl.Kind}),
	}
}

// call counts one operation; it may die or fail there.
func (k *fakeKernel) call(what string, id resource.ID) error {
	if k.budget == 0 {
		k.died = true
	}
	if k.died {
		return errDied
	}
	k.budget--
	k.calls = append(k.calls, what+" "+id.String())
	if (k.faults != nil && k.faults.IntN(10) == 0) || (k.refuse != nil && k.refuse(id)) {
		return errFault
	}
	return nil
}

// put stores r if the kernel would.
func (k *fakeKernel) put(r resource.Resource) error {
	for _, p := range r.After() {
		if _, ok := k.objects[p]; !ok && p.Name != "up0" && !strings.HasPrefix(p.Name, "net.") {
			return fmt.Errorf("no such %s", p)
		}
	}
	for id, o := range k.objects {
		if id == r.ID() {
			continue
		}
		for _, have := range exclusive(o) {
			for _, want := range exclusive(r) {
				if have.Key == want.Key && have.Value != want.Value {
					return fmt.Errorf("device or resource busy: %s is %s for %s", have.Key, have.Value, id)
				}
			}
		}
	}
	k.objects[r.ID()] = r
	if r.ID().Kind == sysctl.Kind {
		k.records[r.ID()] = true
	}
	return nil
}

// remove takes id away, and everything that dies with it.
func (k *fakeKernel) remove(id resource.ID) {
	gone := k.objects[id]
	delete(k.objects, id)
	for child, o := range k.objects {
		if slices.Contains(o.DiesWith(), id) && !borrowed(gone) {
			k.remove(child)
		}
	}
	// A port without its bridge stays, on its own.
	for child, o := range k.objects {
		if l, ok := o.(link.Link); ok && l.Peer != nil && link.For("", l.Peer.Master) == id {
			peer := *l.Peer
			peer.Master = ""
			l.Peer = &peer
			k.objects[child] = l
		}
	}
}

// dump prints every object, in order.
func (k *fakeKernel) dump() string {
	var b strings.Builder
	for _, id := range k.objects.IDs() {
		fmt.Fprintf(&b, "%s: %s\n", id, resource.Describe(k.objects[id]))
	}
	for _, id := range slices.SortedFunc(maps.Keys(k.records), resource.ID.Compare) {
		fmt.Fprintf(&b, "record of %s\n", id)
	}
	return b.String()
}

// fakeOps are the Ops of one kind on a fake kernel.
type fakeOps[R resource.Resource] struct {
	k    *fakeKernel
	kind resource.Kind
}

func (f fakeOps[R]) Observe(context.Context, *host.Host, []R) (owned, foreign []R, err error) {
	f.k.mu.Lock()
	defer f.k.mu.Unlock()
	for _, r := range f.k.objects {
		if r.ID().Kind != f.kind {
			continue
		}
		// The kernel tells devices, not links.
		if s, ok := r.(resource.Sitter); ok {
			r = s.WithLink(resource.ID{})
		}
		owned = append(owned, r.(R))
	}
	for _, r := range f.k.foreign {
		if r.ID().Kind == f.kind {
			foreign = append(foreign, r.(R))
		}
	}
	return owned, foreign, nil
}

func (fakeOps[R]) Diff(observed, desired R) (fields []resource.Field, inPlace bool) {
	before, after := plain(observed), plain(desired)
	for _, name := range slices.Sorted(maps.Keys(after)) {
		if before[name] != after[name] {
			fields = append(fields, resource.Field{Name: name, Before: before[name], After: after[name]})
		}
	}
	return fields, before["type"] == after["type"] && before["path"] == after["path"] && before["parent"] == after["parent"]
}

func (f fakeOps[R]) Create(_ context.Context, _ *host.Host, r R) error {
	f.k.mu.Lock()
	defer f.k.mu.Unlock()
	if err := f.k.call("create", r.ID()); err != nil {
		return err
	}
	if _, ok := f.k.objects[r.ID()]; ok {
		return errors.New("file exists")
	}
	return f.k.put(r)
}

func (f fakeOps[R]) Update(_ context.Context, _ *host.Host, from, to R) error {
	f.k.mu.Lock()
	defer f.k.mu.Unlock()
	if err := f.k.call("update", to.ID()); err != nil {
		return err
	}
	if _, ok := f.k.objects[to.ID()]; !ok {
		return errors.New("no such object")
	}
	return f.k.put(to)
}

func (f fakeOps[R]) Delete(_ context.Context, _ *host.Host, r R) error {
	f.k.mu.Lock()
	defer f.k.mu.Unlock()
	if err := f.k.call("delete", r.ID()); err != nil {
		return err
	}
	f.k.remove(r.ID())
	delete(f.k.records, r.ID())
	return nil
}

// plain is what the fake compares: everything but where it comes from.
func plain(r resource.Resource) map[string]string {
	switch r := r.(type) {
	case netns.NetNS:
		return map[string]string{"path": r.Path}
	case link.Link:
		m := map[string]string{"type": r.Type + r.Mode, "parent": r.Parent, "mtu": fmt.Sprint(r.MTU)}
		if r.Peer != nil {
			m["master"] = r.Peer.Master
		}
		return m
	case route.Route:
		return map[string]string{"dev": r.Dev, "via": r.Gateway.String()}
	case neigh.Neigh:
		return map[string]string{"lladdr": r.MAC}
	case sysctl.Sysctl:
		return map[string]string{"value": r.Value}
	}
	return nil
}

// converge observes, plans, applies and verifies on the fake.
func (k *fakeKernel) converge(ctx context.Context, desired resource.State, parallel int) (*resource.Plan, error) {
	t := k.table()
	p, err := k.plan(ctx, desired)
	if err != nil {
		return nil, err
	}
	if err := t.apply(ctx, nil, p, ApplyOptions{Parallel: parallel}); err != nil {
		return p, err
	}
	again, err := k.plan(ctx, desired)
	if err == nil && !again.Empty() {
		err = &NotConvergedError{again.Changes}
	}
	return p, err
}

// plan observes the fake and diffs.
func (k *fakeKernel) plan(ctx context.Context, desired resource.State) (*resource.Plan, error) {
	o, err := k.table().observe(ctx, nil, desired)
	if err != nil {
		return nil, err
	}
	return k.table().diff(desired, o)
}

// fakePod is one pod of a hand-made desired state.
type fakePod struct {
	name, attach string
	ip           int // the last byte of its addresses
	mtu          int
	adopted      string
	iface        string // eth0 if empty
}

// state builds what the compiler builds for such pods, in small.
func state(pods ...fakePod) resource.State {
	s := resource.State{}
	add := func(r resource.Resource) {
		if _, ok := s[r.ID()]; !ok {
			s[r.ID()] = r
		}
	}
	for _, p := range pods {
		p.mtu, p.iface = cmp.Or(p.mtu, 1500), cmp.Or(p.iface, "eth0")
		from := "pods." + p.name
		l := link.Link{NetNS: p.name, Name: p.iface, Type: p.attach, MTU: p.mtu, From: from + ".attach"}
		host := "h-" + p.name
		hostLink := l.ID()
		switch p.attach {
		case "veth", "netkit":
			l.Peer = &link.Peer{Name: host, MTU: p.mtu}
			add(neigh.Neigh{NetNS: p.name, Dev: p.iface, IP: ip("169.254.10.24"), MAC: "02:00:00:00:00:01", Link: l.ID(), From: from})
			add(sysctl.Sysctl{Key: "net.ipv4.conf." + host + ".rp_filter", Value: "0", Link: l.ID(), From: from})
		case "bridge":
			add(link.Link{Name: "br0", Type: "bridge", MTU: 1500, From: "node"})
			add(addr.Addr{Dev: "br0", Prefix: prefix("10.0.0.1/24"), Link: link.For("", "br0"), From: "node"})
			l.Type, l.Peer = "veth", &link.Peer{Name: host, MTU: p.mtu, Master: "br0"}
		default:
			l.Type, l.Mode, _ = strings.Cut(p.attach, "-")
			l.Parent = "up0"
			host = "child-" + l.Type
			hostLink = link.For("", host)
			add(link.Link{Name: host, Type: l.Type, Mode: l.Mode, MTU: 1500, Parent: "up0", From: "node"})
		}
		add(netns.NetNS{Name: p.name, Path: p.adopted, From: from})
		add(l)
		add(addr.Addr{NetNS: p.name, Dev: p.iface, Prefix: prefix(fmt.Sprintf("10.0.0.%d/32", p.ip)), Link: l.ID(), From: from + ".addresses[0]"})
		add(route.Route{NetNS: p.name, Dst: prefix("0.0.0.0/0"), Table: route.MainTable, Dev: p.iface, Gateway: ip("169.254.10.24"),
			OnLink: true, Link: l.ID(), From: from})
		if p.attach != "bridge" {
			add(route.Route{Dst: prefix(fmt.Sprintf("10.0.0.%d/32", p.ip)), Table: route.MainTable, Dev: host, Link: hostLink, From: from})
		}
		add(sysctl.Sysctl{NetNS: p.name, Key: "net.ipv4.ip_nonlocal_bind", Value: "1", From: from + ".sysctls"})
		if p.adopted != "" {
			add(rule.Rule{NetNS: p.name, Priority: 1000, Src: prefix(fmt.Sprintf("10.0.0.%d/32", p.ip)), Table: 112, From: from})
		}
	}
	if len(pods) > 0 {
		add(sysctl.Sysctl{Key: "net.ipv6.conf.up0.accept_ra", Value: "2", From: "nodes"})
		add(sysctl.Sysctl{Key: "net.ipv6.conf.all.forwarding", Value: "1",
			Follow: resource.ID{Kind: sysctl.Kind, Name: "net.ipv6.conf.up0.accept_ra"}, From: "nodes"})
	}
	return s
}
