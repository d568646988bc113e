package nft_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/internal/netns"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/nft"
)

// node is a host with routed pods of number 10, 11 ..., each of which answers with its number on TCP and UDP port 8080.
type node struct {
	*host.Host
	pods map[int]*os.File
}

func newNode(t *testing.T, pods ...int) *node {
	t.Helper()
	n := &node{Host: kindtest.Root(t), pods: map[int]*os.File{}}
	root := n.root(t)
	n.do(t, 0, func() error {
		// Without the last two, who is sent back where it came from is told to go there directly the next time.
		for name, value := range map[string]string{"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1",
			"ipv4/conf/all/send_redirects": "0", "ipv4/conf/default/send_redirects": "0"} {
			if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644); err != nil {
				return err
			}
		}
		return nil
	})
	uplink := index(t, root, "eth0")
	addAddr(t, root, uplink, "192.0.2.1/24", "fd00:1::1/64")
	// The host's own clients need a route towards service addresses.
	addRoute(t, root, netlink.Route{LinkIndex: uplink, Dst: prefix("0.0.0.0/0")}, netlink.Route{LinkIndex: uplink, Dst: prefix("::/0")})
	for _, i := range pods {
		n.addPod(t, i)
	}
	return n
}

func (n *node) root(t *testing.T) *netlink.Handle {
	t.Helper()
	ns, err := n.NS("")
	if err != nil {
		t.Fatal(err)
	}
	return ns.Handle()
}

func pod4(i int) string { return fmt.Sprintf("10.0.0.%d", i) }
func pod6(i int) string { return fmt.Sprintf("fd00:10::%d", i) }

func mac(end, i int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, byte(end), byte(i)} }

// pair makes a pod's namespace and its pair of devices, both up.
func (n *node) pair(t *testing.T, i int) (inside *netlink.Handle, in, out int) {
	t.Helper()
	f := kindtest.Namespace(t)
	n.pods[i] = f
	root := n.root(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = fmt.Sprintf("v%d", i), mac(1, i)
	if err := root.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: mac(2, i),
		PeerNamespace: netlink.NsFd(int(f.Fd()))}); err != nil {
		t.Fatal(err)
	}
	inside, err := netlink.NewHandleAt(vnetns.NsHandle(f.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { inside.Close() })
	return inside, index(t, inside, "eth0"), index(t, root, attrs.Name)
}

// addPod adds a pod as plumb does: no device of the host has the gateway's address.
func (n *node) addPod(t *testing.T, i int) {
	t.Helper()
	inside, in, out := n.pair(t, i)
	addAddr(t, inside, in, pod4(i)+"/32", pod6(i)+"/128")
	for _, gw := range []string{resource.Gateway4, resource.Gateway6} {
		addNeigh(t, inside, in, gw, mac(1, i))
	}
	addRoute(t, inside,
		netlink.Route{LinkIndex: in, Dst: prefix(resource.Gateway4 + "/32"), Scope: unix.RT_SCOPE_LINK},
		netlink.Route{LinkIndex: in, Dst: prefix("0.0.0.0/0"), Gw: net.ParseIP(resource.Gateway4)},
		netlink.Route{LinkIndex: in, Dst: prefix("::/0"), Gw: net.ParseIP(resource.Gateway6)})
	root := n.root(t)
	addRoute(t, root,
		netlink.Route{LinkIndex: out, Dst: prefix(pod4(i) + "/32"), Scope: unix.RT_SCOPE_LINK},
		netlink.Route{LinkIndex: out, Dst: prefix(pod6(i) + "/128")})
	addNeigh(t, root, out, pod4(i), mac(2, i))
	addNeigh(t, root, out, pod6(i), mac(2, i))
	n.answer(t, i)
}

// answer makes a pod answer with its number.
func (n *node) answer(t *testing.T, i int) {
	t.Helper()
	name := fmt.Sprint(i)
	// One after the other: the library tries only once whether there is IPv6, in whatever namespace it is asked first.
	for _, v := range []string{"4", "6"} {
		n.listen(t, i, v, name)
	}
}

func (n *node) listen(t *testing.T, i int, family, name string) {
	t.Helper()
	n.do(t, i, func() error {
		l, err := net.Listen("tcp"+family, ":8080")
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp"+family, ":8080")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close(); u.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() { // every byte is answered by the name
					defer c.Close()
					for b := make([]byte, 1); ; {
						if _, err := c.Read(b); err != nil {
							return
						}
						_, _ = io.WriteString(c, name)
					}
				}()
			}
		}()
		go func() {
			for b := make([]byte, 1); ; {
				_, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = u.WriteTo([]byte(name), from)
			}
		}()
		return nil
	})
}

// do runs fn in the namespace of a pod, or of the host (0).
func (n *node) do(t *testing.T, pod int, fn func() error) {
	t.Helper()
	ns, err := n.NS("")
	if err != nil {
		t.Fatal(err)
	}
	if pod == 0 {
		err = ns.Do(fn)
	} else {
		err = netns.Do(int(n.pods[pod].Fd()), fn)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// has brings the table to these frontends.
func (n *node) has(t *testing.T, want nft.Table) {
	t.Helper()
	owned, _, err := (nft.Ops{}).Observe(t.Context(), n.Host, nil)
	switch {
	case err != nil:
	case len(owned) == 0:
		err = (nft.Ops{}).Create(t.Context(), n.Host, want)
	default:
		err = (nft.Ops{}).Update(t.Context(), n.Host, owned[0], want)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// patience is how long an answer may take before it counts as none.
const patience = 5 * time.Second

// dial connects from a pod, or the host (0).
func (n *node) dial(t *testing.T, pod int, network, to string) (c net.Conn, err error) {
	t.Helper()
	n.do(t, pod, func() error {
		c, err = net.DialTimeout(network, to, patience)
		if err == nil {
			err = c.SetDeadline(time.Now().Add(patience))
		}
		return nil
	})
	return c, err
}

// ask returns the answer on a connection.
func ask(c net.Conn) (string, error) {
	if _, err := c.Write([]byte{'?'}); err != nil {
		return "", err
	}
	b := make([]byte, 16)
	k, err := c.Read(b)
	return string(b[:k]), err
}

// count connects some times and counts the answers.
func (n *node) count(t *testing.T, pod, times int, network, to string) map[string]int {
	t.Helper()
	answers := map[string]int{}
	for range times {
		c, err := n.dial(t, pod, network, to)
		if err != nil {
			t.Fatalf("from %d to %s %s: %v", pod, network, to, err)
		}
		a, err := ask(c)
		c.Close()
		if err != nil {
			t.Fatalf("from %d to %s %s: %v", pod, network, to, err)
		}
		answers[a]++
	}
	return answers
}

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

// refused checks that a service without backends says so at once.
func (n *node) refused(t *testing.T, from int, to string) {
	t.Helper()
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
	if took := time.Since(start); took > time.Second {
		t.Errorf("it takes %s to be refused", took)
	}
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

func prefix(s string) *net.IPNet {
	p := netip.MustParsePrefix(s)
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// index finds a device and sets it up.
func index(t *testing.T, h *netlink.Handle, name string) int {
	t.Helper()
	l, err := h.LinkByName(name)
	if err == nil {
		err = h.LinkSetUp(l)
	}
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Index
}

func addAddr(t *testing.T, h *netlink.Handle, dev int, prefixes ...string) {
	t.Helper()
	for _, p := range prefixes {
		a := &netlink.Addr{IPNet: prefix(p), Flags: unix.IFA_F_NODAD}
		if err := h.AddrAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: dev}}, a); err != nil {
			t.Fatalf("address %s: %v", p, err)
		}
	}
}

func addRoute(t *testing.T, h *netlink.Handle, routes ...netlink.Route) {
	t.Helper()
	for _, r := range routes {
		if err := h.RouteAdd(&r); err != nil {
			t.Fatalf("route %v: %v", r, err)
		}
	}
}

func addNeigh(t *testing.T, h *netlink.Handle, dev int, ip string, mac net.HardwareAddr) {
	t.Helper()
	if err := h.NeighSet(&netlink.Neigh{LinkIndex: dev, State: netlink.NUD_PERMANENT, IP: net.ParseIP(ip), HardwareAddr: mac}); err != nil {
		t.Fatalf("neighbour %s: %v", ip, err)
	}
}
