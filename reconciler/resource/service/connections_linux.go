package service

import (
	"context"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Connections counts what is under way to backends, by the ids of service and backend.
type Connections map[pair]int

// To counts those to one backend of a frontend.
func (c Connections) To(f resource.Frontend, b resource.Backend) int {
	return c[pair{ID(f), HashID(b.Address, b.Port, f.Protocol)}]
}

// ReadConnections counts the sockets that were led to backends, and the flows whose packets are translated.
func ReadConnections(ctx context.Context, h *host.Host) (Connections, error) {
	m, n := &maps{h: h}, Connections{}
	sockets := func(base string, counts func(bpf.PeerKey) bool) error {
		return m.visit(base, func(b host.BPFMap) error {
			return bpf.Each(b.Map, func(k bpf.PeerKey, v bpf.Peer) {
				if v.Backend != 0 && counts(k) {
					n[pair{v.Service, v.Backend}]++
				}
			})
		})
	}
	// A connected socket has one entry without a peer, whatever others it has, until it is closed.
	if err := sockets("sock_reverse", func(k bpf.PeerKey) bool { return k.Addr == bpf.Address{} }); err != nil {
		return nil, err
	}
	// One that isn't has one for each frontend, which stay behind when it is closed until others need the room.
	open, err := openSockets(ctx, h)
	if err != nil {
		return nil, err
	}
	if err := sockets("sock_forward", func(k bpf.PeerKey) bool { return open == nil || open[k.Cookie] }); err != nil {
		return nil, err
	}
	err = m.flows(func(p pair) { n[p]++ })
	return n, err
}

// flows visits the flows whose packets are translated, but for those that have ended.
func (m *maps) flows(visit func(pair)) error {
	return m.visit("flows", func(b host.BPFMap) error {
		return bpf.Each(b.Map, func(_ bpf.FlowKey, v bpf.Flow) {
			if v.Forward() && !v.Closing() {
				visit(pair{v.Service, v.Backend})
			}
		})
	})
}

// visit calls f for each map of a name.
func (m *maps) visit(base string, f func(host.BPFMap) error) error {
	all, err := m.find(base)
	for _, b := range all {
		if err == nil {
			err = wrap(f(b), base)
		}
	}
	return err
}

// markBusy finds the services whose packets are being translated.
func (m *maps) markBusy(services []Service) error {
	busy := map[uint64]bool{}
	if err := m.flows(func(p pair) { busy[p.service] = true }); err != nil {
		return err
	}
	for i := range services {
		services[i].busy = services[i].Leftover == "" && busy[ID(services[i].Frontend)]
	}
	return nil
}
