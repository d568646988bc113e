package endpoint_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/endpoint"
	podns "plumb.internal/plumb/reconciler/resource/netns"
)

// names of the maps that the tests use.
var names = []string{"endpoints.v1.4096", "macs.v1.4096", "namespaces.v1.4096", "paces.v1.4096"}

func maps(names ...string) (ids []resource.ID) {
	for _, name := range names {
		ids = append(ids, resource.ID{Kind: "bpfmap", Name: name})
	}
	return ids
}

// pin pins a new map.
func pin(t testing.TB, h *host.Host, name string, m *ebpf.Map, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := h.MakeBPFFolder(host.BPFMapFolder); err != nil {
		t.Fatal(err)
	}
	if err := m.Pin(h.BPFPath(host.BPFMapFolder, name)); err != nil {
		t.Fatal(err)
	}
	h.ForgetMaps()
}

// device makes a device in the root namespace.
func device(t testing.TB, h *host.Host, name string) {
	t.Helper()
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Group = name, resource.Group
	if err := ns.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
}

// setup makes the maps, two pods and their devices.
func setup(t testing.TB, h *host.Host) {
	t.Helper()
	kindtest.BPFFS(t, h)
	for _, name := range names {
		base, _, entries, _ := bpf.ParseMapName(name)
		m, err := bpf.NewMap(base, entries)
		pin(t, h, name, m, err)
	}
	for _, pod := range []string{"web", "db"} {
		kindtest.Pod(t, h, pod)
		device(t, h, "pl-"+pod)
	}
}

func sample(pod string, addrs ...string) endpoint.Endpoint {
	e := endpoint.Endpoint{NetNS: pod, Dev: "pl-" + pod, Attach: "veth", MAC: "02:00:00:00:00:01", HostMAC: "02:00:00:00:00:02",
		Socket: true, Maps: maps(names...)}
	for _, a := range addrs {
		e.Addresses = append(e.Addresses, netip.MustParseAddr(a))
	}
	return e
}

func TestKind(t *testing.T) {
	veth := sample("web", "10.0.0.10", "fd00:10::10")
	other := sample("web", "10.0.0.11", "fd00:10::10")
	other.Dev, other.HostMAC, other.Socket = "pl-db", "02:00:00:00:00:03", false
	limited := sample("web", "10.0.0.11", "fd00:10::10")
	limited.Rate, limited.MTU = 10e6, 1500
	faster := sample("web", "10.0.0.10", "fd00:10::10", "fd00:10::11")
	faster.Rate = 15e5
	macvlan := sample("web", "10.0.0.10")
	macvlan.Attach, macvlan.Dev, macvlan.HostMAC = "macvlan", "eth0", ""
	ipvlan := sample("web", "fd00:10::10")
	ipvlan.Attach, ipvlan.Dev, ipvlan.MAC, ipvlan.HostMAC = "ipvlan-l3", "eth0", "", ""
	node := endpoint.Endpoint{Socket: true, Maps: maps(names...)}
	kindtest.Run(t, kindtest.Kind[endpoint.Endpoint]{
		Ops:     endpoint.Ops{},
		Samples: []endpoint.Endpoint{veth, other, limited, faster, macvlan, ipvlan, sample("db", "10.0.0.10"), node},
		Setup:   func(t *testing.T, h *host.Host) { setup(t, h) },
	})
}

// observe looks anew.
func observe(t testing.TB, h *host.Host, wanted ...endpoint.Endpoint) map[string]endpoint.Endpoint {
	t.Helper()
	h.Forget()
	owned, _, err := (endpoint.Ops{}).Observe(t.Context(), h, wanted)
	if err != nil {
		t.Fatal(err)
	}
	byID := map[string]endpoint.Endpoint{}
	for _, e := range owned {
		byID[e.ID().String()] = e
	}
	return byID
}

// converge brings the maps to what is wanted, as the reconciler does, and checks that they are so.
func converge(t *testing.T, h *host.Host, wanted ...endpoint.Endpoint) {
	t.Helper()
	ops := endpoint.Ops{}
	there := observe(t, h, wanted...)
	for _, w := range wanted {
		e, ok := there[w.ID().String()]
		delete(there, w.ID().String())
		var err error
		if !ok {
			err = ops.Create(t.Context(), h, w)
		} else if fields, _ := ops.Diff(e, w); len(fields) > 0 {
			err = ops.Update(t.Context(), h, e, w)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range there {
		if err := ops.Delete(t.Context(), h, e); err != nil {
			t.Fatal(err)
		}
	}
	now := observe(t, h, wanted...)
	for _, w := range wanted {
		if fields, _ := ops.Diff(now[w.ID().String()], w); len(fields) > 0 {
			t.Errorf("%s still differs: %v", w.ID(), fields)
		}
	}
	if len(now) != len(wanted) {
		t.Errorf("observed %v, wanted %v", now, wanted)
	}
}

func fields(t *testing.T, h *host.Host, w endpoint.Endpoint) []resource.Field {
	t.Helper()
	fields, inPlace := (endpoint.Ops{}).Diff(observe(t, h, w)[w.ID().String()], w)
	if !inPlace {
		t.Error("not in place")
	}
	return fields
}

// A namespace and a device under the same name as before are other ones: both show, and are put right.
func TestMadeAnew(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	web := sample("web", "10.0.0.10")
	converge(t, h, web)

	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	was, err := ns.Link("pl-web")
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Handle().LinkDel(was); err != nil {
		t.Fatal(err)
	}
	device(t, h, "pl-web")
	right := "veth dev pl-web lladdr 02:00:00:00:00:01 via 02:00:00:00:00:02"
	gone := fmt.Sprintf("veth dev #%d lladdr 02:00:00:00:00:01 via 02:00:00:00:00:02", was.Index)
	if diff := cmp.Diff([]resource.Field{{Name: "10.0.0.10", Before: gone, After: right}}, fields(t, h, web)); diff != "" {
		t.Errorf("with another device:\n%s", diff)
	}
	converge(t, h, web)

	if err := (podns.Ops{}).Delete(t.Context(), h, podns.NetNS{Name: "web"}); err != nil {
		t.Fatal(err)
	}
	kindtest.Pod(t, h, "web")
	want := []resource.Field{{Name: "namespace", Before: "", After: "known to the socket programs"}}
	if diff := cmp.Diff(want, fields(t, h, web)); diff != "" {
		t.Errorf("with another namespace:\n%s", diff)
	}
	if stale, ok := observe(t, h, web)["endpoint stale"]; !ok || len(stale.Held) != 1 {
		t.Errorf("the old namespace's cookie is %+v", stale)
	}
	converge(t, h, web)
}

// What no pod has is one object, and goes at once. What a pod has that it shouldn't is the pod's.
func TestNobodys(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	web := sample("web", "10.0.0.10")
	web.Attach, web.Dev = "macvlan", "eth0"
	converge(t, h, web)
	ns, err := h.NS("web")
	if err != nil {
		t.Fatal(err)
	}
	lo, err := ns.Link("lo")
	if err != nil {
		t.Fatal(err)
	}
	addr := &netlink.Addr{IPNet: netlink.NewIPNet(netip.MustParseAddr("10.0.0.10").AsSlice())}
	if err := ns.Handle().AddrAdd(lo, addr); err != nil {
		t.Fatal(err)
	}
	got := observe(t, h)
	if e := got["endpoint web/pod"]; len(got) != 2 || len(e.Held) != 2 || e.Held["10.0.0.10"] == "" || e.Held["namespace"] == "" {
		t.Errorf("observed %+v", got)
	}
	if e := got["endpoint stale"]; len(e.Held) != 1 || e.Held["mac 02:00:00:00:00:01"] != "dev eth0" || e.ID().NetNS != "" {
		t.Errorf("nobody's: %+v", e)
	}
	if text := resource.Describe(got["endpoint stale"]); text != "endpoint of nobody: mac 02:00:00:00:00:01" {
		t.Errorf("described as %q", text)
	}
	converge(t, h)
}

// Entries that nothing reads go too, whatever their keys look like.
func TestJunk(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	web := sample("web", "10.0.0.10")
	web.Attach, web.Dev = "macvlan", "eth0"
	converge(t, h, web)
	for _, k := range []struct {
		base string
		key  []byte
	}{
		{"endpoints", []byte{15: 0}},
		{"endpoints", []byte{10: 0xff, 11: 0xff, 15: 0xab}},
		{"endpoints", []byte{12: 10, 14: 0, 15: 10}}, // ::10.0.0.10, which isn't 10.0.0.10
		{"endpoints", []byte{0xfe, 0x80, 15: 0xab}},
		{"macs", []byte{7: 0xab}},
		{"macs", []byte{2, 0, 0, 0, 0, 1, 1, 0}}, // the pod's, with padding
		{"macs", []byte{0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab}},
		{"namespaces", []byte{7: 0}},
		{"namespaces", []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
	} {
		maps, err := h.BPFMaps(k.base)
		if err != nil || len(maps) != 1 {
			t.Fatal(maps, err)
		}
		m := maps[0]
		value := make([]byte, m.ValueSize())
		for i := range value {
			value[i] = 0xab
		}
		if err := m.Put(k.key, value); err != nil {
			t.Fatal(err)
		}
		converge(t, h, web)
		if there, err := h.BPFMaps(k.base); err != nil {
			t.Fatal(err)
		} else if v, err := there[0].LookupBytes(k.key); err != nil || v != nil {
			t.Errorf("%s: % x is still there (%v)", k.base, k.key, err)
		}
		n := h.Writes()
		converge(t, h, web)
		if h.Writes() != n {
			t.Errorf("%s: % x: wrote again", k.base, k.key)
		}
	}
}

// An address that goes from one pod to another stays through it: the first one's update doesn't take it away.
func TestAddressMoves(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	converge(t, h, sample("web", "10.0.0.10", "10.0.0.11"), sample("db", "10.0.0.20"))
	converge(t, h, sample("web", "10.0.0.10"), sample("db", "10.0.0.20", "10.0.0.11"))
	converge(t, h, sample("db", "10.0.0.20", "10.0.0.11"), sample("web", "10.0.0.10"))
	converge(t, h, sample("web", "10.0.0.20"), sample("db", "10.0.0.10"))
	converge(t, h, sample("db", "10.0.0.20"))
}

// While a map takes over from another one, both are written; the wanted one is read. One of another layout is left alone.
func TestTwoMaps(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	converge(t, h, sample("web", "10.0.0.10"))
	m, err := bpf.NewMap("endpoints", 1024)
	pin(t, h, "endpoints.v1.1024", m, err)
	m, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 16, ValueSize: 24, MaxEntries: 4096})
	pin(t, h, "endpoints.v2.4096", m, err)
	h.Forget()
	moved := sample("web", "10.0.0.10", "10.0.0.11")
	moved.Maps[0].Name = "endpoints.v1.1024"
	if _, there := observe(t, h, moved)["endpoint web/pod"].Held["10.0.0.10"]; there {
		t.Error("read from the map that isn't wanted")
	}
	converge(t, h, moved)
	converge(t, h, sample("web", "10.0.0.10", "10.0.0.11"))
	all, err := h.BPFMaps("endpoints")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		n := 0
		var key []byte
		value := make([]byte, m.ValueSize())
		entries := m.Iterate()
		for entries.Next(&key, &value) {
			n++
		}
		want := map[string]int{"endpoints.v1.1024": 2, "endpoints.v1.4096": 2}[m.Name]
		if err := entries.Err(); err != nil || n != want {
			t.Errorf("%s has %d entries, want %d (%v)", m.Name, n, want, err)
		}
	}
}

// A pod is told to the map that is wanted, also where the one before it is full.
func TestGrow(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	full, err := bpf.NewMap("endpoints", 1)
	pin(t, h, "endpoints.v1.1", full, err)
	w := sample("web", "10.0.0.10", "fd00::10")
	converge(t, h, w) // the old map takes one of the two
	if f := fields(t, h, w); len(f) > 0 {
		t.Errorf("differs: %v", f)
	}
	w.Maps = maps("endpoints.v1.1", "macs.v1.4096", "namespaces.v1.4096")
	if err := (endpoint.Ops{}).Create(t.Context(), h, w); !errors.Is(err, unix.E2BIG) {
		t.Errorf("the wanted map has no room, and the error is %v", err)
	}
}

// Without its device or its map an endpoint can't be written, and says why.
func TestCannot(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	e := sample("web", "10.0.0.10")
	e.Dev = "missing"
	if err := (endpoint.Ops{}).Create(t.Context(), h, e); err == nil {
		t.Error("created without a device")
	}
	e = sample("web", "10.0.0.10")
	if err := os.Remove(h.BPFPath(host.BPFMapFolder, names[0])); err != nil {
		t.Fatal(err)
	}
	h.ForgetMaps()
	if err := (endpoint.Ops{}).Create(t.Context(), h, e); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("created without a map: %v", err)
	}
	if n := h.Writes(); len(observe(t, h)) > 0 {
		t.Errorf("something was written (%d writes)", n)
	}
}

// BenchmarkObserve is a look at 1,000 pods of which everything else has been read.
func BenchmarkObserve(b *testing.B) {
	h := kindtest.Root(b)
	setup(b, h)
	device(b, h, "pl-all")
	var wanted []endpoint.Endpoint
	for i := range 1000 {
		pod := fmt.Sprintf("pod%d", i)
		if err := (podns.Ops{}).Create(b.Context(), h, podns.NetNS{Name: pod}); err != nil {
			b.Fatal(err)
		}
		e := sample(pod, fmt.Sprintf("10.0.%d.%d", i>>8, i&255), fmt.Sprintf("fd00:10::%x", i+1))
		e.Dev = "pl-all"
		if err := (endpoint.Ops{}).Create(b.Context(), h, e); err != nil {
			b.Fatal(err)
		}
		wanted = append(wanted, e)
	}
	h.Forget()
	if _, err := h.Namespaces(b.Context()); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		owned, _, err := (endpoint.Ops{}).Observe(b.Context(), h, wanted)
		if err != nil || len(owned) != len(wanted) {
			b.Fatal(len(owned), err)
		}
	}
}

// Another rate is written into the entry as it is: what the pod has sent already goes on counting.
func TestRateKeepsGate(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h)
	web := sample("web", "10.0.0.10", "fd00:10::10")
	web.Rate = 10e6
	converge(t, h, web)
	pins, err := h.BPFMaps("paces")
	if err != nil {
		t.Fatal(err)
	}
	key := bpf.AddressOf(web.Addresses[0])
	if err := pins[0].Put(key, bpf.Pace{Rate: 10e6, Next: 12345}); err != nil {
		t.Fatal(err)
	}
	before := h.Writes()
	converge(t, h, web)
	if n := h.Writes() - before; n != 0 {
		t.Errorf("%d writes for what the programs write", n)
	}
	web.Rate = 1e9
	before = h.Writes()
	converge(t, h, web)
	if n := h.Writes() - before; n != 1 {
		t.Errorf("%d writes for another rate", n)
	}
	var v, second bpf.Pace
	if err := errors.Join(pins[0].Lookup(key, &v), pins[0].Lookup(bpf.AddressOf(web.Addresses[1]), &second)); err != nil {
		t.Fatal(err)
	}
	if v.Rate != 1e9 || v.Next != 12345 || second.Rate != 0 || second.With != key {
		t.Errorf("the maps hold %+v and %+v", v, second)
	}
}
