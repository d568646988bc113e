package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/nft"
)

// port is where servers listen and services are.
const port = "8080"

// path is one way from the client to a server.
type path struct {
	// alone says that the number of services has no meaning for it.
	alone bool
	// setup makes a bed ready and returns where the client connects to. What it makes lives in the bed's namespaces; what
	// doesn't go with them has to be taken away when ctx is done.
	setup func(ctx context.Context, b *bed, services int) (target string, err error)
}

// paths by name, as -paths takes them.
var paths = map[string]path{
	"direct": {alone: true, setup: func(_ context.Context, b *bed, _ int) (string, error) {
		return netip.AddrPortFrom(b.backend[0], 8080).String(), nil
	}},
	"kubeproxy": {setup: kubeProxy},
	"nft":       {setup: plumbNFT},
}

// plumbNFT makes plumb's own table in the node's namespace, by its kind.
func plumbNFT(ctx context.Context, b *bed, services int) (string, error) {
	h, err := host.Open(host.Options{Node: "bench", RootNS: fmt.Sprintf("/proc/self/fd/%d", b.node.Fd())})
	if err != nil {
		return "", err
	}
	defer h.Close()
	var t nft.Table
	for i := range services {
		f := resource.Frontend{Address: serviceAddr(i), Port: 8080, Protocol: "TCP", Algorithm: resource.Random}
		for _, to := range backendsOf(b, i) {
			f.Backends = append(f.Backends, resource.Backend{Address: to, Port: 8080, Weight: 1, State: resource.Active})
		}
		t.Frontends = append(t.Frontends, f)
	}
	slices.SortFunc(t.Frontends, func(a, b resource.Frontend) int { return strings.Compare(a.Name(), b.Name()) })
	if b.attach != "veth" {
		t.Segments = []string{"ground"}
	}
	return netip.AddrPortFrom(serviceAddr(0), 8080).String(), (nft.Ops{}).Create(ctx, h, t)
}

// serviceAddr is the address of service i. The client connects to the first one; the others are there.
func serviceAddr(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)})
}

// backendsOf are the backends of service i: the servers of the first one, addresses of nobody for the others.
func backendsOf(b *bed, i int) []netip.Addr {
	if i == 0 {
		return b.backend
	}
	all := make([]netip.Addr, len(b.backend))
	for k := range all {
		n := i*len(all) + k
		all[k] = netip.AddrFrom4([4]byte{10, 1 + byte(n>>16), byte(n >> 8), byte(n)})
	}
	return all
}
