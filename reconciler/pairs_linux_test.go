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
		pairs = 40
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
		pods := randomPods(r, free, shared)
		b, alone := compile(t, withAdopted(pods, usedNS)), compile(t, withAdopted(pods, freshNS))
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
		p := schema.Pod{Attach: attaches[r.IntN(len(attaches))], MTU: []int{0, 1400}[r.IntN(2)]}
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
