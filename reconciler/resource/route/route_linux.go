package route

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Observe implements reconciler.Ops. Foreign are the routes of others in the root namespace and in adopted ones, and in
// pods' own those that somebody put in the place of a wanted one. What is in a table that no rule leads to meets nothing.
func (Ops) Observe(ctx context.Context, h *host.Host, wanted []Route) (owned, foreign []Route, err error) {
	all, err := h.Devices(ctx)
	if err != nil {
		return nil, nil, err
	}
	places := map[resource.ID]bool{}
	for _, w := range wanted {
		places[w.ID()] = true
	}
	seen := map[resource.ID]int{} // index in owned
	for _, devs := range all {
		name := devs.NS.Name
		routes, err := devs.NS.Routes()
		if err != nil {
			return nil, nil, err
		}
		read, err := tablesRead(devs.NS)
		if err != nil {
			return nil, nil, err
		}
		for _, k := range routes {
			if k.Protocol != resource.Protocol {
				if !interesting(k, devs) {
					continue
				}
				if f := observed(name, devs, k); !devs.Own && read[k.Table] || places[f.ID()] {
					foreign = append(foreign, f)
				}
				continue
			}
			r := observed(name, devs, k)
			r.Type, r.Protocol, r.Connected = own(r.Type), 0, false
			if i, ok := seen[r.ID()]; ok {
				owned[i].Trouble = "more than one route" // an update was cut off half-way
				continue
			}
			seen[r.ID()] = len(owned)
			owned = append(owned, r)
		}
	}
	return owned, foreign, nil
}

// tablesRead are the tables that rules of a namespace lead to.
func tablesRead(ns *host.NS) (map[int]bool, error) {
	rules, err := ns.Rules()
	if err != nil {
		return nil, err
	}
	read := map[int]bool{}
	for _, r := range rules {
		read[r.Table] = true
	}
	return read, nil
}

// interesting reports whether a foreign route can meet a desired one: unicast destinations, and not what the kernel keeps
// for devices of ours.
func interesting(k netlink.Route, devs *host.Devices) bool {
	dst := host.Prefix(k.Dst)
	switch {
	case k.Type == unix.RTN_BROADCAST || k.Type == unix.RTN_ANYCAST || k.Type == unix.RTN_MULTICAST:
		return false
	case k.Protocol == protoKernel && devs.Ours(k.LinkIndex):
		return false
	case dst.Addr().IsMulticast() || dst.Addr().IsLoopback():
		return false
	}
	return !dst.Addr().Is6() || !dst.Addr().IsLinkLocalUnicast()
}

// own leaves only types that a desired route can't have.
func own(kernelType string) string {
	if kernelType == "unicast" || kernelType == "unreachable" {
		return ""
	}
	return kernelType
}

var types = map[int]string{
	unix.RTN_UNICAST: "unicast", unix.RTN_LOCAL: "local", unix.RTN_BLACKHOLE: "blackhole",
	unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw", unix.RTN_NAT: "nat",
}

var kernelTypes = func() map[string]uint8 {
	all := map[string]uint8{}
	for number, name := range types {
		all[name] = uint8(number)
	}
	return all
}()

func observed(netns string, devs *host.Devices, k netlink.Route) Route {
	r := Route{
		NetNS: netns, Dst: host.Prefix(k.Dst).Masked(), Table: k.Table, Metric: k.Priority,
		Gateway: ip(k.Gw), Src: ip(k.Src), OnLink: k.Flags&unix.RTNH_F_ONLINK != 0,
		MTU: k.MTU, Dev: devs.Name(k.LinkIndex), Type: types[k.Type], Protocol: int(k.Protocol),
		Unreachable: k.Type == unix.RTN_UNREACHABLE,
	}
	if r.Type == "" {
		r.Type = fmt.Sprintf("type %d", k.Type)
	}
	if via, ok := k.Via.(*netlink.Via); ok {
		r.Gateway = ip(via.Addr)
	}
	if r.Unreachable {
		r.Dev = "" // IPv6 keeps them on lo
	}
	switch {
	case len(k.MultiPath) > 0:
		hop := k.MultiPath[0]
		r.Dev, r.Gateway, r.OnLink = devs.Name(hop.LinkIndex), ip(hop.Gw), hop.Flags&unix.RTNH_F_ONLINK != 0
		r.Trouble = fmt.Sprintf("%d next hops", len(k.MultiPath))
	case k.Tos != 0:
		r.Trouble = fmt.Sprintf("tos %d", k.Tos)
	}
	r.Connected = k.Type == unix.RTN_UNICAST && !r.Gateway.IsValid() && (k.Protocol == protoKernel || k.Protocol == protoRA)
	return r
}

func ip(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a.Unmap()
}

// Create implements reconciler.Ops.
func (Ops) Create(_ context.Context, h *host.Host, r Route) error {
	ns, index, err := find(h, r)
	if err != nil {
		return fmt.Errorf("create %s: %w", r.ID(), err)
	}
	h.Wrote("create %s", r.ID())
	if err := ns.Request(request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, r, index)); err != nil {
		return fmt.Errorf("create %s: %w", r.ID(), err)
	}
	return nil
}

// Update implements reconciler.Ops. The kernel's replace looks at the key only, so it could hit a route of somebody else
// that came meanwhile. Instead the new route is put behind the old one and then the old one is deleted, by next hop and
// protocol: no packet is without a route, and nothing foreign can be hit. Where both can't be there at once, or a delete
// couldn't tell them apart, the old one goes first; that cut lasts one system call.
func (o Ops) Update(ctx context.Context, h *host.Host, from, to Route) error {
	ns, index, err := find(h, to)
	if err != nil {
		return fmt.Errorf("update %s: %w", to.ID(), err)
	}
	if coexist(from, to) {
		h.Wrote("append %s", to.ID())
		if err := ns.Request(request(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, to, index)); err != nil {
			return fmt.Errorf("update %s: %w", to.ID(), err)
		}
		return o.Delete(ctx, h, from)
	}
	if err := o.Delete(ctx, h, from); err != nil {
		return err
	}
	return o.Create(ctx, h, to)
}

// coexist reports whether two routes of one key can be there together, and the first be deleted alone.
func coexist(from, to Route) bool {
	if from.Dst.Addr().Is4() {
		return true // the older one of two comes first, for packets and for a delete
	}
	// IPv6 tells them apart by device and gateway only, and a delete without a gateway takes any. What leads nowhere is on lo.
	dev := func(r Route) string {
		if r.Unreachable {
			return "lo"
		}
		return r.Dev
	}
	if dev(from) != dev(to) {
		return true
	}
	return from.Gateway.IsValid() && to.Gateway.IsValid() && from.Gateway != to.Gateway
}

// Delete implements reconciler.Ops.
func (Ops) Delete(_ context.Context, h *host.Host, r Route) error {
	ns, index, err := find(h, r)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // gone with its device or namespace
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", r.ID(), err)
	}
	times, err := count(ns, r)
	if err != nil {
		return err
	}
	req := request(unix.RTM_DELROUTE, 0, r, index)
	if r.Trouble != "" { // all that we have under this key
		req = request(unix.RTM_DELROUTE, 0, Route{Dst: r.Dst, Table: r.Table, Metric: r.Metric, Type: "any"}, 0)
	} else {
		times = min(times, 1)
	}
	for range times {
		h.Wrote("delete %s", r.ID())
		err := ns.Request(req)
		if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("delete %s: %w", r.ID(), err)
		}
	}
	return nil
}

// count returns how many routes of ours there are under r's key. To IPv4, metric 0 in a delete means any metric: where we
// have the same destination under another metric, deleting a missing route of metric 0 would take that one along, so the
// kernel is asked again.
func count(ns *host.NS, r Route) (n int, err error) {
	ours := func(k netlink.Route) bool {
		return k.Protocol == resource.Protocol && k.Table == r.Table && host.Prefix(k.Dst) == r.Dst
	}
	routes, err := ns.Routes()
	if err != nil {
		return 0, fmt.Errorf("delete %s: %w", r.ID(), err)
	}
	others := false
	for _, k := range routes {
		switch {
		case ours(k) && k.Priority == r.Metric:
			n++
		case ours(k):
			others = true
		}
	}
	if n == 0 || !others || r.Metric != 0 || r.Dst.Addr().Is6() {
		return n, nil
	}
	filter := &netlink.Route{Table: r.Table, Protocol: resource.Protocol}
	routes, err = ns.Handle().RouteListFiltered(unix.AF_INET, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return 0, fmt.Errorf("delete %s: list routes: %w", r.ID(), err)
	}
	n = 0
	for _, k := range routes {
		if ours(k) && k.Priority == 0 {
			n++
		}
	}
	return n, nil
}

// find resolves the namespace and the device.
func find(h *host.Host, r Route) (ns *host.NS, index int, err error) {
	if ns, err = h.NS(r.NetNS); err != nil {
		return nil, 0, err
	}
	switch {
	case r.Dev != "":
		index, err = ns.LinkIndex(r.Dev)
	case r.Unreachable && r.Dst.Addr().Is6():
		index, err = ns.LinkIndex("lo")
	}
	return ns, index, err
}

func request(kind, flags int, r Route, index int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK)
	msg := nl.NewRtMsg()
	msg.Family = unix.AF_INET
	if r.Dst.Addr().Is6() {
		msg.Family = unix.AF_INET6
	}
	msg.Dst_len, msg.Protocol, msg.Table = uint8(r.Dst.Bits()), resource.Protocol, unix.RT_TABLE_UNSPEC
	msg.Type = unix.RTN_UNICAST
	switch {
	case r.Type == "any":
		msg.Type = unix.RTN_UNSPEC
	case r.Type != "":
		msg.Type = kernelTypes[r.Type] // somebody has made it such
	case r.Unreachable:
		msg.Type = unix.RTN_UNREACHABLE
	case r.Dst.Addr().Is4() && !r.Gateway.IsValid():
		msg.Scope = unix.RT_SCOPE_LINK // so that gateways can be reached over it
	}
	if kind == unix.RTM_DELROUTE {
		msg.Scope = unix.RT_SCOPE_NOWHERE // any
	}
	if r.OnLink {
		msg.Flags |= unix.RTNH_F_ONLINK
	}
	req.AddData(msg)
	add := func(attr int, value []byte) { req.AddData(nl.NewRtAttr(attr, value)) }
	add(unix.RTA_TABLE, nl.Uint32Attr(uint32(r.Table)))
	if r.Dst.Bits() > 0 {
		add(unix.RTA_DST, r.Dst.Addr().AsSlice())
	}
	if r.Metric != 0 {
		add(unix.RTA_PRIORITY, nl.Uint32Attr(uint32(r.Metric)))
	}
	if index != 0 && (!r.Unreachable || kind == unix.RTM_DELROUTE) {
		add(unix.RTA_OIF, nl.Uint32Attr(uint32(index)))
	}
	if r.Gateway.IsValid() {
		add(unix.RTA_GATEWAY, r.Gateway.AsSlice())
	}
	if r.Src.IsValid() {
		add(unix.RTA_PREFSRC, r.Src.AsSlice())
	}
	if r.MTU != 0 && kind == unix.RTM_NEWROUTE {
		metrics := nl.NewRtAttr(unix.RTA_METRICS, nil)
		metrics.AddRtAttr(unix.RTAX_MTU, nl.Uint32Attr(uint32(r.MTU)))
		req.AddData(metrics)
	}
	return req
}
