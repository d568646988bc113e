package nft_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"plumb.internal/plumb/reconciler/resource/nft"
)

// outside is the number of a namespace behind uplink v99, which knows the way to pods and tells who asks on port 7.
const outside = 99

func (n *node) addOutside(t *testing.T) {
	t.Helper()
	inside, in, out := n.pair(t, outside)
	addAddr(t, inside, in, "203.0.113.9/24", "2001:db8:9::9/64")
	addAddr(t, n.root(t), out, "203.0.113.1/24", "2001:db8:9::1/64")
	addRoute(t, inside,
		netlink.Route{LinkIndex: in, Dst: prefix("10.0.0.0/8"), Gw: net.ParseIP("203.0.113.1")},
		netlink.Route{LinkIndex: in, Dst: prefix("fd00:10::/64"), Gw: net.ParseIP("2001:db8:9::1")})
	for _, v := range []string{"4", "6"} {
		n.do(t, outside, func() error {
			l, err := net.Listen("tcp"+v, ":7")
			if err != nil {
				return err
			}
			u, err := net.ListenPacket("udp"+v, ":7")
			if err != nil {
				return err
			}
			t.Cleanup(func() { l.Close(); u.Close() })
			tell := func(a net.Addr) []byte { return []byte(netip.MustParseAddrPort(a.String()).Addr().Unmap().String()) }
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					go func() {
						defer c.Close()
						for b := make([]byte, 1); ; {
							if _, err := c.Read(b); err != nil {
								return
							}
							_, _ = c.Write(tell(c.RemoteAddr()))
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
					_, _ = u.WriteTo(tell(from), from)
				}
			}()
			return nil
		})
	}
}

// Pods reach the outside by the uplink's address, but for what is excluded; what began before goes on as it began.
func TestMasquerade(t *testing.T) {
	n := newNode(t, 10, 11)
	n.addOutside(t)
	seen := func(pod int, want4, want6 string) {
		t.Helper()
		for to, want := range map[string]string{"203.0.113.9:7": want4, "[2001:db8:9::9]:7": want6} {
			for _, network := range []string{"tcp", "udp"} {
				if got := n.count(t, pod, 3, network, to); got[want] != 3 {
					t.Errorf("%s from %d to %s comes from %v, not %s", network, pod, to, got, want)
				}
			}
		}
	}
	long := func() net.Conn {
		t.Helper()
		c, err := n.dial(t, 10, "tcp", "203.0.113.9:7")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	still := func(c net.Conn, want string) {
		t.Helper()
		if got, err := ask(c); got[:min(len(got), 10)] != want[:min(len(want), 10)] || err != nil {
			t.Errorf("a connection that was there comes from %q, not %q: %v", got, want, err)
		}
	}
	seen(10, pod4(10), pod6(10))
	before := long()
	still(before, pod4(10))

	var table nft.Table
	table.Masquerade = masquerade([]string{"10.0.0.0/24", "fd00:10::/64"}, "10.0.0.0/8", "fd00:10::/64")
	table.Masquerade.Uplinks = []string{"v99"}
	n.has(t, table)
	seen(10, "203.0.113.1", "2001:db8:9::1")
	seen(0, "203.0.113.1", "2001:db8:9::1")
	still(before, pod4(10))
	during := long()
	still(during, "203.0.113.1")
	// Between pods nothing changes, nor for who asks a pod from outside.
	n.meet(t, 10, pod4(11), pod6(11))
	n.meet(t, outside, pod4(11), pod6(11))

	narrower := table
	narrower.Masquerade = masquerade([]string{"10.0.0.0/24", "fd00:10::/64"}, "10.0.0.0/8", "203.0.113.0/28", "fd00:10::/64")
	narrower.Masquerade.Uplinks = []string{"v99"}
	n.has(t, narrower)
	seen(10, pod4(10), "2001:db8:9::1")
	still(during, "203.0.113.1")
	n.has(t, table)
	seen(11, "203.0.113.1", "2001:db8:9::1")
	still(during, "203.0.113.1")
	still(before, pod4(10))
	if fields, _ := (nft.Ops{}).Diff(observe(t, n.Host, table), table); len(fields) > 0 {
		t.Errorf("it differs by %v", fields)
	}

	// Elsewhere than by the uplink nobody is masqueraded.
	elsewhere := table
	elsewhere.Masquerade.Uplinks = []string{"eth0"}
	n.has(t, elsewhere)
	seen(10, pod4(10), pod6(10))
}

// Many connections to one destination by one address: none has to wait.
func TestMasqueradeManyConnections(t *testing.T) {
	n := newNode(t, 10, 11)
	n.addOutside(t)
	var table nft.Table
	table.Masquerade = masquerade([]string{"10.0.0.0/24"}, "10.0.0.0/8")
	table.Masquerade.Uplinks = []string{"v99"}
	n.has(t, table)
	times := 5000
	if testing.Short() {
		times = 500
	}
	done := make(chan error)
	for _, pod := range []int{10, 11} {
		go func() {
			for range times {
				c, err := n.dial(t, pod, "tcp", "203.0.113.9:7")
				if err != nil {
					done <- err
					return
				}
				got, err := ask(c)
				c.Close()
				if err != nil || got != "203.0.113.1" {
					done <- fmt.Errorf("asked by %q: %w", got, err)
					return
				}
			}
			done <- nil
		}()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
