package neigh

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Observe implements reconciler.Ops. Only permanent and proxy entries are seen; foreign are those that a desired entry
// would meet.
func (Ops) Observe(ctx context.Context, h *host.Host, wanted []Neigh) (owned, foreign []Neigh, err error) {
	all, err := h.Devices(ctx)
	if err != nil {
		return nil, nil, err
	}
	ids := make(map[resource.ID]Neigh, len(wanted))
	proxies := map[string]bool{} // namespaces where a proxy entry is wanted
	for _, w := range wanted {
		ids[w.ID()] = w
		proxies[w.NetNS] = proxies[w.NetNS] || w.Proxy
	}
	for _, devs := range all {
		name, ns := devs.NS.Name, devs.NS
		entries, err := ns.Neighs()
		if err != nil {
			return nil, nil, err
		}
		// Proxy entries are for devices outside pods, so pods' namespaces are spared that dump.
		if !devs.Own || proxies[name] {
			more, err := ns.Proxies()
			if err != nil {
				return nil, nil, err
			}
			entries = append(entries[:len(entries):len(entries)], more...)
		}
		for _, k := range entries {
			n, ok := observed(name, devs, k)
			w, named := ids[n.ID()]
			switch {
			case !ok:
			case k.Protocol == resource.Protocol, named && isOurs(k, w, devs.Ours(k.LinkIndex)):
				owned = append(owned, n)
			case named:
				n.Protocol = k.Protocol
				foreign = append(foreign, n)
			}
		}
	}
	return owned, foreign, nil
}

// isOurs reports whether an entry under n's key is ours. Kernels before 5.0 keep no protocol: there the very entry that we
// would write, on our own device, is.
func isOurs(k host.Neigh, n Neigh, ourDevice bool) bool {
	if k.Protocol == 0 && ourDevice {
		return n.Proxy || strings.EqualFold(k.HardwareAddr.String(), n.MAC)
	}
	return k.Protocol == resource.Protocol
}

func observed(netns string, devs *host.Devices, k host.Neigh) (n Neigh, ok bool) {
	addr, ok := netip.AddrFromSlice(k.IP)
	proxy := k.Flags&netlink.NTF_PROXY != 0
	dev := devs.Name(k.LinkIndex)
	if !ok || dev == "" || (k.Family != unix.AF_INET && k.Family != unix.AF_INET6) ||
		(!proxy && k.State&netlink.NUD_PERMANENT == 0) {
		return n, false
	}
	n = Neigh{NetNS: netns, Dev: dev, IP: addr, Proxy: proxy}
	if !proxy {
		n.MAC = k.HardwareAddr.String()
	}
	return n, true
}

// Create implements reconciler.Ops. An entry that the kernel learnt by itself is taken over: it isn't anybody's.
func (Ops) Create(_ context.Context, h *host.Host, n Neigh) error {
	ns, index, err := h.Device(n.NetNS, n.Dev)
	if err != nil {
		return fmt.Errorf("create %s: %w", n.ID(), err)
	}
	if n.Proxy {
		// The kernel doesn't look at EXCL for proxy entries.
		there, err := has(ns.Handle().NeighProxyList, n, index)
		if there && err == nil {
			err = unix.EEXIST
		}
		if err != nil {
			return fmt.Errorf("create %s: %w", n.ID(), err)
		}
	}
	err = write(h, ns, n, index, "create", unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	if errors.Is(err, unix.EEXIST) {
		permanent, lookErr := has(ns.Handle().NeighList, n, index)
		if lookErr != nil {
			return fmt.Errorf("create %s: %w", n.ID(), lookErr)
		}
		if !permanent {
			err = write(h, ns, n, index, "create", unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
		}
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", n.ID(), err)
	}
	return nil
}

// has reports whether a list of the kernel's holds a permanent or proxy entry under n's key.
func has(list func(index, family int) ([]netlink.Neigh, error), n Neigh, index int) (bool, error) {
	family := unix.AF_INET
	if n.IP.Is6() {
		family = unix.AF_INET6
	}
	entries, err := list(index, family)
	if err != nil {
		return false, fmt.Errorf("list neighbours of %s: %w", n.Dev, err)
	}
	return slices.ContainsFunc(entries, func(k netlink.Neigh) bool {
		ip, _ := netip.AddrFromSlice(k.IP)
		return ip == n.IP && (n.Proxy || k.State&netlink.NUD_PERMANENT != 0)
	}), nil
}

// Update implements reconciler.Ops: another MAC for an entry of ours.
func (Ops) Update(_ context.Context, h *host.Host, _, to Neigh) error {
	ns, index, err := h.Device(to.NetNS, to.Dev)
	if err == nil {
		err = write(h, ns, to, index, "update", unix.NLM_F_REPLACE)
	}
	if err != nil {
		return fmt.Errorf("update %s: %w", to.ID(), err)
	}
	return nil
}

func write(h *host.Host, ns *host.NS, n Neigh, index int, verb string, flags int) error {
	req := request(unix.RTM_NEWNEIGH, flags, n, index)
	if !n.Proxy {
		mac, err := net.ParseMAC(n.MAC)
		if err != nil {
			return err
		}
		req.AddData(nl.NewRtAttr(netlink.NDA_LLADDR, mac))
	}
	req.AddData(nl.NewRtAttr(netlink.NDA_PROTOCOL, nl.Uint8Attr(resource.Protocol)))
	h.Wrote("%s %s", verb, n.ID())
	return ns.Request(req)
}

// Delete implements reconciler.Ops. The kernel doesn't look at the protocol when it deletes, and one key has one entry, so
// what was read last decides whose it is.
func (Ops) Delete(_ context.Context, h *host.Host, n Neigh) error {
	ns, index, err := h.Device(n.NetNS, n.Dev)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	ours := false
	if err == nil {
		ours, err = present(h, ns, n, index)
	}
	if ours && err == nil {
		h.Wrote("delete %s", n.ID())
		err = ns.Request(request(unix.RTM_DELNEIGH, 0, n, index))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete %s: %w", n.ID(), err)
	}
	return nil
}

// present reports whether there is an entry of ours under n's key.
func present(h *host.Host, ns *host.NS, n Neigh, index int) (bool, error) {
	dev, err := ns.Link(n.Dev)
	if err != nil {
		return false, err
	}
	list := ns.Neighs
	if n.Proxy {
		list = ns.Proxies
	}
	entries, err := list()
	return slices.ContainsFunc(entries, func(k host.Neigh) bool {
		ip, _ := netip.AddrFromSlice(k.IP)
		return k.LinkIndex == index && ip == n.IP && isOurs(k, n, h.Ours(dev))
	}), err
}

func request(kind, flags int, n Neigh, index int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK)
	msg := &netlink.Ndmsg{Family: unix.AF_INET, Index: uint32(index), State: netlink.NUD_PERMANENT}
	if n.IP.Is6() {
		msg.Family = unix.AF_INET6
	}
	if n.Proxy {
		msg.Flags = netlink.NTF_PROXY
	}
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(netlink.NDA_DST, n.IP.AsSlice()))
	return req
}
