package kindtest

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/vishvananda/netlink"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/netns"
	podns "plumb.internal/plumb/reconciler/resource/netns"
)

// Node is the name of the node that Root makes.
const Node = "testnode"

// NeedRoot skips a test that needs root and hasn't got it; where CI is set it fails.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal("this test needs root")
	}
	t.Skip("this test needs root")
}

// Root makes a host of its own for a test: a private root network namespace with an uplink eth0, a folder of namespaces, a
// run folder, a BPF file system and a cgroup. Everything goes with the test, and nothing of the machine is touched.
func Root(t testing.TB) *host.Host {
	t.Helper()
	NeedRoot(t)
	return Open(t, Options(t))
}

// Open opens a host for the length of a test.
func Open(t testing.TB, o host.Options) *host.Host {
	t.Helper()
	h, err := host.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// Options are those of the host that Root makes; open it as often as needed.
func Options(t testing.TB) host.Options {
	t.Helper()
	dir := t.TempDir()
	root, far := Namespace(t), Namespace(t)
	o := host.Options{Node: Node, RunDir: filepath.Join(dir, "run", Node), NetNSDir: filepath.Join(dir, "netns"),
		RootNS: fmt.Sprintf("/proc/self/fd/%d", root.Fd()), BPFFS: bpffs(t), Cgroup: cgroup(t)}
	t.Cleanup(func() { clean(t, o.NetNSDir) })

	h, err := host.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "eth0"
	// ipvlan pods inherit the uplink's MAC: with a random one, hosts in the same state would differ.
	attrs.HardwareAddr = net.HardwareAddr{0x02, 0, 0, 0, 0xff, 1}
	uplink := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerTxQLen: -1, PeerHardwareAddr: net.HardwareAddr{0x02, 0, 0, 0, 0xff, 2},
		PeerNamespace: netlink.NsFd(int(far.Fd()))}
	if err := ns.Handle().LinkAdd(uplink); err != nil {
		t.Fatalf("make the uplink: %v", err)
	}
	f, err := host.Open(host.Options{RootNS: fmt.Sprintf("/proc/self/fd/%d", far.Fd())})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	other, err := f.NS("")
	if err != nil {
		t.Fatal(err)
	}
	for _, end := range []struct {
		ns   *host.NS
		name string
	}{{ns, "lo"}, {ns, "eth0"}, {other, "lo"}, {other, "eth0"}} {
		l, err := end.ns.Link(end.name)
		if err != nil {
			t.Fatal(err)
		}
		if err := end.ns.Handle().LinkSetUp(l); err != nil {
			t.Fatalf("set %s up: %v", end.name, err)
		}
	}
	return o
}

// Namespace makes a namespace without a name, for the length of a test.
func Namespace(t testing.TB) *os.File {
	t.Helper()
	f, err := netns.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// Pod makes the namespace of a pod on a host, by the kind of namespaces.
func Pod(t testing.TB, h *host.Host, name string) {
	t.Helper()
	if err := (podns.Ops{}).Create(t.Context(), h, podns.NetNS{Name: name}); err != nil {
		t.Fatal(err)
	}
	h.Forget()
}

// clean takes away what a failed test left in a folder of namespaces, and its mount: names below it may be covered by it.
func clean(t testing.TB, dir string) {
	for range 4 {
		files, err := os.ReadDir(dir)
		if err != nil {
			return
		}
		for _, f := range files {
			if err := netns.Unbind(filepath.Join(dir, f.Name())); err != nil {
				t.Error(err)
			}
		}
		if err := netns.Unbind(dir); err != nil {
			t.Error(err)
		}
	}
}

// Lacks ends a test for which the kernel lacks something that every kernel of the gate has: under CI that is a failure.
func Lacks(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}
