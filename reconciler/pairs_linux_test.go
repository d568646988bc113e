package reconciler_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/schema"
)

// TestRealPairs brings random configurations into each other: what the second one leaves is what it leaves alone. There
// are fewer with -short.
func TestRealPairs(t *testing.T) {
	pairs := 500
	if testing.Short() {
		pairs = 3
	}
	kindtest.NeedRoot(t)
	used, fresh := kindtest.Options(t), kindtest.Options(t)
	usedNS, freshNS := adopt(t), adopt(t)
	free := able(t, "veth", "bridge", "netkit")
	shared := able(t, "macvlan", "ipvlan-l2", "ipvlan-l3")
	seed := uint64(1)
	r := rand.New(rand.NewPCG(seed, 3))
	var last resource.State
	keys := map[resource.ID]bool{}
	for i := range pairs {
		pods, c := randomPods(r, free, shared), randomServices(r)
		for name, p := range pods {
			if c.Routing.Services == "nftables" && strings.HasPrefix(p.Attach, "ipvlan") { // which passes nftables by
				p.Attach = "veth"
				pods[name] = p
			}
		}
		c.Pods = withAdopted(pods, usedNS)
		b := compileAll(t, c)
		c.Pods = withAdopted(pods, freshNS)
		alone := compileAll(t, c)
		maps.Copy(keys, settings(b))
		if err := converge(t, used, b); err != nil {
			t.Fatalf("pair %d: %v\n%s", i, err, explain(last, b))
		}
		if err := converge(t, fresh, alone); err != nil {
			t.Fatalf("pair %d, alone: %v\n%s", i, err, explain(nil, b))
		}
		want, got := dump(t, fresh, keys, freshNS), dump(t, used, keys, usedNS)
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("pair %d (-alone +after the other):\n%s\n%s", i, d, explain(last, b))
		}
		destroy(t, fresh)
		last = b
	}
	destroy(t, used)
}

// randomPods makes up to four pods; those that share the uplink have one attachment.
func randomPods(r *rand.Rand, free, shared []string) map[string]schema.Pod {
	attaches := slices.Clone(free)
	if len(shared) > 0 {
		attaches = append(attaches, shared[r.IntN(len(shared))])
	}
	pods := map[string]schema.Pod{}
	for i, name := range []string{"a", "b", "c", "d"} {
		if r.IntN(5) < 2 {
			continue
		}
		p := schema.Pod{Attach: attaches[r.IntN(len(attaches))], MTU: []int{0, 1400}[r.IntN(2)], Labels: map[string]string{"app": []string{"x", "y"}[r.IntN(2)]}}
		last := 10 + 10*i + r.IntN(2)
		if r.IntN(4) == 0 {
			last = 99 - r.IntN(4)*10 - i // sometimes another address, never that of another pod
		}
		if family := r.IntN(4); family != 1 {
			p.Addresses = append(p.Addresses, fmt.Sprintf("10.0.0.%d", last))
			if family > 1 {
				p.Addresses = append(p.Addresses, fmt.Sprintf("fd00:10::%d", last))
			}
		} else {
			p.Addresses = []string{fmt.Sprintf("fd00:10::%d", last)}
		}
		if r.IntN(4) == 0 {
			p.Sysctls = map[string]string{"net.ipv4.tcp_keepalive_time": fmt.Sprint(60 + r.IntN(2)), "net.ipv4.conf.eth0.arp_ignore": "1"}
		}
		if name == "d" && r.IntN(2) == 0 {
			p.NetNS, p.Interface, p.Sysctls = "adopted", "eth1", nil
		}
		pods[name] = p
	}
	return pods
}

// randomServices makes up to five services, by any of the ways, and sizes of maps. There are more of the ways whose programs
// the kernel checks faster.
func randomServices(r *rand.Rand) (c schema.Config) {
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	c.Routing.Services = pick("socket", "socket", "socket", "socket", "nftables", "nftables", "nftables", "packet", "auto")
	c.Routing.HostRouting = pick("", "", "legacy")
	c.Tuning.Maps = schema.Maps{Services: []int{200, 200, 300}[r.IntN(3)], Ratio: []float64{0, 0, larger}[r.IntN(3)]}
	c.Services = map[string]schema.Service{}
	if r.IntN(5) == 0 {
		return c
	}
	for i, name := range []string{"a", "b", "c", "d", "e"} {
		if r.IntN(2) == 0 {
			continue
		}
		s := schema.Service{Addresses: []string{fmt.Sprintf("10.96.0.%d", i)}, Algorithm: pick("auto", "random", "round-robin", "maglev"),
			Ports: map[string]schema.Port{"one": {Port: 80, TargetPort: 8080 + r.IntN(2)}}}
		if r.IntN(2) == 0 {
			s.Addresses = append(s.Addresses, fmt.Sprintf("fd00:96::%d", i))
		}
		if r.IntN(2) == 0 {
			s.Ports["two"] = schema.Port{Port: 53, Protocol: pick("TCP", "UDP")}
		}
		if r.IntN(3) == 0 {
			s.Affinity.Timeout = pick("60s", "1h")
		}
		switch {
		case s.Algorithm == "maglev" && c.Routing.Services == "nftables":
			s.Algorithm = "random" // it has no tables
		case s.Algorithm == "maglev":
			s.TableSize = []int{251, 2039, 4093}[r.IntN(3)]
		}
		backends := r.IntN(4)
		if r.IntN(2) == 0 {
			s.Selector, backends = map[string]string{"app": pick("x", "y", "none")}, 0
		}
		for j := range backends {
			b := schema.Backend{Address: fmt.Sprintf("192.0.2.%d", 10*i+j), State: pick("", "", "active", "terminating", "maintenance")}
			if len(s.Addresses) > 1 && r.IntN(2) == 0 {
				b.Address = fmt.Sprintf("2001:db8::%d", 10*i+j)
			}
			if s.Ports["two"].Port == 0 && r.IntN(2) == 0 {
				b.Port = 8080
			}
			if r.IntN(2) == 0 {
				b.Weight = weight(r.IntN(4))
			}
			s.Backends = append(s.Backends, b)
		}
		c.Services[name] = s
	}
	return c
}

// withAdopted gives the adopted pod its namespace.
func withAdopted(pods map[string]schema.Pod, path string) map[string]schema.Pod {
	pods = maps.Clone(pods)
	for name, p := range pods {
		if p.NetNS != "" {
			p.NetNS = path
			pods[name] = p
		}
	}
	return pods
}

// explain prints the plan of a pair, for a failure.
func explain(from, to resource.State) string {
	p, err := reconciler.Diff(to, &reconciler.Observed{Owned: from})
	if err != nil {
		return err.Error()
	}
	var b strings.Builder
	if err := p.WriteText(&b, resource.TextOptions{}); err != nil {
		return err.Error()
	}
	return b.String()
}
