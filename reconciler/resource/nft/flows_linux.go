package nft

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// drain returns to with the UDP backends that go, set to get nothing new, and whether any go.
func drain(from, to Table) (drained Table, any bool) {
	drained = to
	drained.Frontends = slices.Clone(to.Frontends)
	index := map[resource.FrontendKey]int{}
	for i, f := range to.Frontends {
		if f.Protocol == "UDP" {
			index[f.Key()] = i
		}
	}
	for _, was := range from.Frontends {
		if was.Protocol != "UDP" {
			continue
		}
		i, ok := index[was.Key()]
		if !ok {
			if len(was.Backends) == 0 {
				continue
			}
			i = len(drained.Frontends)
			gone := was
			gone.Backends = nil
			drained.Frontends = append(drained.Frontends, gone)
		}
		f := &drained.Frontends[i]
		kept := len(f.Backends)
		f.Backends = slices.Clone(f.Backends)
		for _, b := range was.Backends {
			if !slices.ContainsFunc(f.Backends[:kept], func(k resource.Backend) bool {
				return k.Address == b.Address && k.Port == b.Port
			}) {
				b.State, any = resource.Terminating, true
				f.Backends = append(f.Backends, b)
			}
		}
		sortBackends(f.Backends)
	}
	if !any {
		return to, false
	}
	sortFrontends(drained.Frontends)
	return drained, true
}

// stale are the UDP flows to frontends that none of the frontend's backends should answer: those to a backend that has
// gone, and those that began before there was a service. The connection table would go on with them for as long as the
// client sends.
type stale map[netip.AddrPort][]netip.AddrPort // backends by frontend

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (s stale) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	backends, ok := s[addrPort(flow.Forward.DstIP, flow.Forward.DstPort)]
	return ok && !slices.Contains(backends, addrPort(flow.Reverse.SrcIP, flow.Reverse.SrcPort))
}

func addrPort(ip net.IP, port uint16) netip.AddrPort {
	a, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(a.Unmap(), port)
}

// staleFlows are those that a change of the table leaves behind.
func staleFlows(from, to Table) stale {
	s := stale{}
	before := map[resource.FrontendKey][]netip.AddrPort{}
	for _, f := range from.Frontends {
		if f.Protocol == "UDP" {
			before[f.Key()] = backends(f)
			s[f.At()] = nil
		}
	}
	for _, f := range to.Frontends {
		if f.Protocol != "UDP" {
			continue
		}
		was, there := before[f.Key()]
		key, is := f.At(), backends(f)
		s[key] = is
		if there && !slices.ContainsFunc(was, func(b netip.AddrPort) bool { return !slices.Contains(is, b) }) {
			delete(s, key) // nobody has gone
		}
	}
	return s
}

func backends(f resource.Frontend) []netip.AddrPort {
	all := make([]netip.AddrPort, len(f.Backends))
	for i, b := range f.Backends {
		all[i] = b.At()
	}
	return all
}

// delete deletes them. A kernel that can't is no error: they end by themselves.
func (s stale) delete(h *host.Host) error {
	if len(s) == 0 {
		return nil
	}
	c, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open the connection table: %w", err)
	}
	defer c.Close()
	h.Wrote("delete the UDP flows that no backend should answer")
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		_, err := c.ConntrackDeleteFilters(netlink.ConntrackTable, family, s)
		switch {
		case noConntrack(err):
			h.Warn("this kernel has no ctnetlink: UDP clients of a backend that is gone wait until their flow times out")
			return nil
		case err != nil:
			return fmt.Errorf("delete stale UDP flows: %w", err)
		}
	}
	return nil
}
