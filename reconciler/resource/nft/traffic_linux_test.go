package nft_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/nft"
)

func TestTraffic(t *testing.T) {
	n := newNode(t, 10, 11, 12)
	at := func(address string, pods ...int) resource.Frontend {
		var to []string
		for _, i := range pods {
			a := pod4(i)
			if netip.MustParseAddrPort(address).Addr().Is6() {
				a = pod6(i)
			}
			to = append(to, net.JoinHostPort(a, "8080"))
		}
		return frontend(address, "TCP", to...)
	}
	weighted := func(f *resource.Frontend) { f.Backends[0].Weight = 3 }
	robin := func(f *resource.Frontend) { f.Algorithm = resource.RoundRobin }
	sticky := func(f *resource.Frontend) { f.Affinity = time.Hour }
	onlyFirst := func(f *resource.Frontend) {
		f.Backends[1].State, f.Backends[2].Weight = resource.Terminating, 0
	}
	datagrams := func(f *resource.Frontend) { f.Protocol = "UDP" }
	var table nft.Table
	for _, a := range []string{"10.96.0.1:%d", "[fd00:96::1]:%d"} {
		p := func(port int) string { return fmt.Sprintf(a, port) }
		table.Frontends = append(table.Frontends, with(at(p(1), 10, 11), weighted), with(at(p(2), 10, 11), robin),
			with(at(p(3), 10, 11, 12), sticky), with(at(p(4), 10, 11, 12), onlyFirst), at(p(5), 12), at(p(6)),
			with(at(p(1), 10, 11), datagrams), with(at(p(6)), datagrams))
	}
	n.has(t, table)
	for _, family := range []string{"10.96.0.1:%d", "[fd00:96::1]:%d"} {
		p := func(port int) string { return fmt.Sprintf(family, port) }
		for from, who := range map[int]string{12: "pod", 0: "host"} {
			t.Run(who+" "+family, func(t *testing.T) {
				// First: the kernel's limit of ICMP errors a client counts the redirects that hairpins bring it.
				n.refused(t, from, p(6))
				if a := n.count(t, from, 200, "tcp", p(1)); a["10"]+a["11"] != 200 || a["11"] < 20 || a["11"] > 80 {
					t.Errorf("weights 3:1 give %v", a)
				}
				if a := n.count(t, from, 20, "tcp", p(2)); a["10"] != 10 || a["11"] != 10 {
					t.Errorf("round-robin gives %v", a)
				}
				if a := n.count(t, from, 20, "tcp", p(3)); len(a) != 1 {
					t.Errorf("affinity gives %v", a)
				}
				if a := n.count(t, from, 20, "tcp", p(4)); a["10"] != 20 {
					t.Errorf("what should get nothing new gets some: %v", a)
				}
				if a := n.count(t, from, 3, "tcp", p(5)); a["12"] != 3 { // from 12 itself: the hairpin
					t.Errorf("pod 12 alone: %v", a)
				}
				if a := n.count(t, from, 40, "udp", p(1)); a["10"]+a["11"] != 40 || len(a) != 2 {
					t.Errorf("UDP: %v", a)
				}
			})
		}
	}
}

// refused checks that a service without backends says so at once. On a busy machine a SYN may be sent twice, a second later.
func (n *node) refused(t *testing.T, from int, to string) {
	t.Helper()
	var took time.Duration
	for range 3 {
		start := time.Now()
		if c, err := n.dial(t, from, "tcp", to); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("TCP to %s without backends: connection %v, error %v", to, c, err)
		}
		c, err := n.dial(t, from, "udp", to)
		if err == nil {
			_, err = ask(c)
		}
		// A datagram of the host's own doesn't get past the output hook, and the sender is told by that.
		if !errors.Is(err, unix.ECONNREFUSED) && (from != 0 || !errors.Is(err, unix.EPERM)) {
			t.Errorf("UDP to %s without backends: %v", to, err)
		}
		if took = time.Since(start); took <= time.Second {
			return
		}
	}
	t.Errorf("it takes %s to be refused, the third time too", took)
}

// What is established keeps its backend as long as there is that backend; a UDP flow gets another one at once.
func TestEstablished(t *testing.T) {
	n := newNode(t, 10, 11, 12)
	both := nft.Table{Frontends: []resource.Frontend{
		with(frontend("10.96.0.1:80", "TCP", "10.0.0.10:8080", "10.0.0.11:8080"), func(f *resource.Frontend) { f.Backends[1].Weight = 0 }),
		with(frontend("10.96.0.1:80", "UDP", "10.0.0.10:8080", "10.0.0.11:8080"), func(f *resource.Frontend) { f.Backends[1].Weight = 0 }),
	}}
	n.has(t, both)
	stream, err := n.dial(t, 12, "tcp", "10.96.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	flow, err := n.dial(t, 12, "udp", "10.96.0.1:80")
	if err != nil {
		t.Fatal(err)
	}
	expect := func(c net.Conn, want string) {
		t.Helper()
		if a, err := ask(c); a != want || err != nil {
			t.Errorf("%s answers %q, %v, want %q", c.RemoteAddr().Network(), a, err, want)
		}
	}
	expect(stream, "10")
	expect(flow, "10")

	drained := nft.Table{}
	for _, f := range both.Frontends {
		drained.Frontends = append(drained.Frontends, with(f, func(f *resource.Frontend) {
			f.Algorithm = resource.RoundRobin
			f.Backends[0].State, f.Backends[1].Weight = resource.Terminating, 1
		}))
	}
	n.has(t, drained)
	expect(stream, "10")
	expect(flow, "10")
	if a := n.count(t, 12, 5, "tcp", "10.96.0.1:80"); a["11"] != 5 {
		t.Errorf("new connections go to %v", a)
	}

	gone := nft.Table{}
	for _, f := range drained.Frontends {
		gone.Frontends = append(gone.Frontends, with(f, func(f *resource.Frontend) { f.Backends = f.Backends[1:] }))
	}
	n.has(t, gone)
	expect(flow, "11")
	n.has(t, nft.Table{Frontends: gone.Frontends[:1]})
	_ = flow.SetDeadline(time.Now().Add(100 * time.Millisecond))
	if a, err := ask(flow); err == nil {
		t.Errorf("a UDP service that is gone answers %q", a)
	}
}

// Pods on one bridge answer each other directly: a service between them works because it is masqueraded.
func TestSegment(t *testing.T) {
	n := newNode(t)
	root := n.root(t)
	n.do(t, 0, func() error {
		// Where the bridge hands its frames to netfilter it translates them without the host's stack, and has no way back
		// to the port that one came from.
		err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("0"), 0o644)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	if err := root.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	bridge := index(t, root, "br0")
	addAddr(t, root, bridge, "10.0.0.1/24")
	for _, i := range []int{10, 11} {
		inside, in, out := n.pair(t, i)
		if err := root.LinkSetMasterByIndex(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: out}}, bridge); err != nil {
			t.Fatal(err)
		}
		addAddr(t, inside, in, pod4(i)+"/24")
		addRoute(t, inside, netlink.Route{LinkIndex: in, Dst: prefix("0.0.0.0/0"), Gw: net.ParseIP("10.0.0.1")})
		n.answer(t, i)
	}
	n.has(t, nft.Table{Frontends: []resource.Frontend{frontend("10.96.0.1:80", "TCP", "10.0.0.11:8080")}, Segments: []string{"br0"}})
	if a := n.count(t, 10, 3, "tcp", "10.96.0.1:80"); a["11"] != 3 {
		t.Errorf("answers %v", a)
	}
	if a := n.count(t, 11, 3, "tcp", "10.96.0.1:80"); a["11"] != 3 {
		t.Errorf("answers to itself %v", a)
	}
}
