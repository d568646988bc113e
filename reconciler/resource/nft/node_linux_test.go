package nft_test

import (
	"fmt"
	"io"
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
