package checks

import (
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/schema"
)

// addresses gives a device of a namespace addresses, and sets it up.
func addresses(t *testing.T, ns *host.NS, dev string, texts ...string) {
	t.Helper()
	l, err := ns.Handle().LinkByName(dev)
	if err == nil {
		err = ns.Handle().LinkSetUp(l)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range texts {
		a, err := netlink.ParseAddr(text)
		if err != nil {
			t.Fatal(err)
		}
		a.Flags = unix.IFA_F_NODAD
		if err := ns.Handle().AddrAdd(l, a); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRun makes checks from a pod, from the node and from a namespace by its path. The pod and the node have a cable
// between them; the node speaks no IPv6.
func TestRun(t *testing.T) {
	h := kindtest.Root(t)
	h.Cgroup = "" // the test's own process must not move there
	kindtest.Pod(t, h, "client")
	root, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	client, err := h.NS("client")
	if err != nil {
		t.Fatal(err)
	}
	fd, err := client.FD()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "cable"
	if err := root.Handle().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(fd)}); err != nil {
		t.Fatal(err)
	}
	addresses(t, root, "cable", "192.0.2.1/24", "192.0.2.11/24")
	addresses(t, client, "eth0", "192.0.2.2/24", "2001:db8::2/64")
	addresses(t, client, "lo")
	listen := func(ns *host.NS, at string) (l net.Listener) {
		t.Helper()
		if err := ns.Do(func() (err error) {
			if l, err = net.Listen("tcp", at); err == nil {
				t.Cleanup(func() { l.Close() })
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return l
	}
	listen(root, "192.0.2.1:80")
	listen(client, "192.0.2.2:80")
	go http.Serve(listen(root, "192.0.2.1:8080"), http.NotFoundHandler())

	path := filepath.Join(h.NetNSDir, "client")
	targets := func(texts ...string) (all []netip.AddrPort) {
		for _, text := range texts {
			all = append(all, netip.MustParseAddrPort(text))
		}
		return all
	}
	for _, c := range []struct {
		want  string // a regular expression for the reason; "" for a check that holds
		check compiler.Check
	}{
		{"", compiler.Check{Name: "from pod", Pod: "client", Type: "tcp", Targets: targets("192.0.2.1:80")}},
		{"", compiler.Check{Name: "from node", Type: "tcp", Targets: targets("192.0.2.2:80")}},
		{"", compiler.Check{Name: "from netns", NetNS: path, Type: "icmp", Targets: targets("192.0.2.1:0", "192.0.2.11:0")}},
		{`^connection refused by 192\.0\.2\.11:80 after [0-9.]+ ms$`,
			compiler.Check{Name: "one of two", Pod: "client", Type: "tcp", Targets: targets("192.0.2.1:80", "192.0.2.11:80")}},
		{`^192\.0\.2\.1:80 answers after [0-9.]+ ms$`,
			compiler.Check{Name: "unreachable, one is", Pod: "client", Type: "tcp", Targets: targets("192.0.2.1:80", "192.0.2.11:80"), Unreachable: true}},
		{"", compiler.Check{Name: "unreachable", Pod: "client", Type: "tcp", Targets: targets("192.0.2.11:80", "192.0.2.2:81"), Unreachable: true}},
		{`^HTTP status 404 from 192\.0\.2\.1:8080`,
			compiler.Check{Name: "unreachable, but it answers", Pod: "client", Type: "http", Targets: targets("192.0.2.1:8080"), Unreachable: true}},
		{"", compiler.Check{Name: "lost", Pod: "client", Type: "icmp", Targets: targets("192.0.2.99:0"), Unreachable: true, Within: 50 * time.Millisecond}},
		{"", compiler.Check{Name: "the other family is left out", Type: "icmp", Targets: targets("192.0.2.2:0", "[2001:db8::2]:0")}},
		{"network is unreachable", compiler.Check{Name: "only the other family", Type: "icmp", Targets: targets("[2001:db8::2]:0")}},
		{`match: error parsing regexp`, // what can't be tried holds neither way
			compiler.Check{Name: "broken", Type: "udp", Targets: targets("192.0.2.2:53"), UDP: schema.CheckUDP{Match: "("}, Unreachable: true}},
		{"^pod nobody isn't there$", compiler.Check{Name: "no pod", Pod: "nobody", Type: "icmp", Targets: targets("192.0.2.1:0"), Unreachable: true}},
		{"^open the namespace: ", compiler.Check{Name: "no netns", NetNS: path + "x", Type: "icmp", Targets: targets("192.0.2.1:0")}},
	} {
		results, err := Run(t.Context(), h, []compiler.Check{c.check}, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		r := results[0]
		if r.Holds != (c.want == "") || r.Holds != (r.Reason == "") || !regexp.MustCompile(c.want).MatchString(r.Reason) {
			t.Errorf("%s: holds %v, %q; want %q", c.check.Name, r.Holds, r.Reason, c.want)
		}
		if want := max(c.check.Within, 50*time.Millisecond); r.Within != want && r.Within != 5*time.Second {
			t.Errorf("%s: within %s", c.check.Name, r.Within)
		}
	}
}
