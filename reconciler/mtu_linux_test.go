package reconciler_test

import (
	"net"
	"testing"
	"time"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/schema"
)

// mixed is a node whose uplink carries 9000 bytes, with two pods of one attachment of which one takes 1400.
func mixed(t *testing.T, attach string) (o host.Options) {
	t.Helper()
	o = kindtest.Options(t)
	known, err := probed()
	if err != nil {
		t.Fatal(err)
	}
	set := *known
	set.Host = &features.HostFacts{MemoryBytes: memory, CPUs: 2, Devices: map[string]features.Device{"eth0": {MTU: 1500, MaxMTU: 65535}}}
	out, err := compiler.Compile(&schema.Config{
		Nodes: map[string]schema.Node{kindtest.Node: {Uplinks: []string{"eth0"}, PodCIDRs: []string{"10.0.0.0/24", "fd00:10::/64"}}},
		Pods: map[string]schema.Pod{
			"large": {Attach: attach, Addresses: []string{"10.0.0.10", "fd00:10::10"}},
			"small": {Attach: attach, Addresses: []string{"10.0.0.11", "fd00:10::11"}, MTU: 1400},
		},
		Routing: schema.Routing{HostRouting: "legacy"}, Tuning: schema.Tuning{MTU: 9000},
	}, kindtest.Node, &set)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time nothing is different
		if err := converge(t, o, out.State); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// TestRealMTU sends what is larger than a pod takes: to the neighbour, and to the node, whose devices carry more. Nobody on the
// way says so, so the routes must.
func TestRealMTU(t *testing.T) {
	kindtest.NeedRoot(t)
	set, err := probed()
	if err != nil {
		t.Fatal(err)
	}
	for attach, f := range map[string]features.Feature{"bridge": features.LinkBridge, "macvlan": features.LinkMacvlan,
		"ipvlan-l2": features.LinkIPvlanL2, "ipvlan-l3": features.LinkIPvlanL3, "veth": features.LinkVeth} {
		t.Run(attach, func(t *testing.T) {
			if !set.Supports(f) {
				t.Skip(set.Why(f))
			}
			h := kindtest.Open(t, mixed(t, attach))
			for _, from := range []string{"large", ""} {
				if from == "" && attach == "veth" {
					continue // each pod has a device of the node's to itself, and the node has no address here to send from
				}
				for _, to := range []string{"10.0.0.11", "fd00:10::11"} {
					across(t, h, from, to, 4000)
				}
			}
		})
	}
}

// across sends datagrams of a size to pod small until one arrives: the first ones may get lost while neighbours are asked for,
// or the path's MTU is found out.
func across(t *testing.T, h *host.Host, from, to string, size int) {
	t.Helper()
	in := func(name string, fn func() error) {
		t.Helper()
		ns, err := h.NS(name)
		if err == nil {
			err = ns.Do(fn)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var server *net.UDPConn
	var client net.Conn
	in("small", func() (err error) {
		server, err = net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(to)})
		return err
	})
	defer server.Close()
	in(from, func() (err error) {
		client, err = net.Dial("udp", server.LocalAddr().String())
		return err
	})
	defer client.Close()
	got := make([]byte, 2*size)
	for range 20 {
		_, _ = client.Write(make([]byte, size)) // EMSGSIZE where it was just found out
		if err := server.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if n, err := server.Read(got); err == nil {
			if n != size {
				t.Errorf("%d bytes of %d", n, size)
			}
			return
		}
	}
	t.Errorf("%d bytes from %q don't reach %s", size, from, to)
}
