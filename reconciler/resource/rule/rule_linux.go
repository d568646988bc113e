package rule

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Observe implements reconciler.Ops. Foreign are the rules of others in the root namespace and in adopted ones.
func (Ops) Observe(ctx context.Context, h *host.Host, _ []Rule) (owned, foreign []Rule, err error) {
	all, err := h.Devices(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, devs := range all {
		name := devs.NS.Name
		rules, err := devs.NS.Rules()
		if err != nil {
			return nil, nil, err
		}
		for _, k := range rules {
			r := Rule{NetNS: name, Priority: k.Priority, Src: host.Prefix(k.Src), Table: k.Table, Rest: rest(k)}
			switch k.Protocol {
			case resource.Protocol:
				owned = append(owned, r)
			case unix.RTPROT_KERNEL: // 0, 32766, 32767, and those of VRFs
			default:
				if devs.Own {
					continue // whoever sets rules inside a pod's own namespace wants them
				}
				r.Protocol = int(k.Protocol)
				if k.Dst != nil && !k.Invert {
					r.Dst = host.Prefix(k.Dst)
				}
				foreign = append(foreign, r)
			}
		}
	}
	return owned, foreign, nil
}

// rest is what a rule says beyond source and table, in the words of ip-rule(8).
func rest(k netlink.Rule) string {
	var words []string
	say := func(yes bool, format string, args ...any) {
		if yes {
			words = append(words, fmt.Sprintf(format, args...))
		}
	}
	say(k.Invert, "not")
	say(k.Dst != nil, "to %s", (*net.IPNet)(k.Dst))
	say(k.Tos != 0, "tos %#x", k.Tos)
	say(k.Mark != 0 || k.Mask != nil && *k.Mask != 0, "fwmark %#x", k.Mark)
	say(k.IifName != "", "iif %s", k.IifName)
	say(k.OifName != "", "oif %s", k.OifName)
	say(k.IPProto != 0, "ipproto %d", k.IPProto)
	say(k.SuppressPrefixlen >= 0, "suppress_prefixlength %d", k.SuppressPrefixlen)
	say(k.Goto > 0, "goto %d", k.Goto)
	switch k.Type {
	case unix.RTN_BLACKHOLE:
		say(true, "blackhole")
	case unix.RTN_UNREACHABLE:
		say(true, "unreachable")
	case unix.RTN_PROHIBIT:
		say(true, "prohibit")
	}
	return strings.Join(words, " ")
}

// Create implements reconciler.Ops.
func (Ops) Create(_ context.Context, h *host.Host, r Rule) error {
	ns, err := h.NS(r.NetNS)
	if err == nil {
		err = alone(ns, r)
	}
	if err == nil {
		h.Wrote("create %s", r.ID())
		err = ns.Request(request(unix.RTM_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_EXCL, r))
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", r.ID(), err)
	}
	return nil
}

// Update implements reconciler.Ops. Diff never asks for it.
func (o Ops) Update(ctx context.Context, h *host.Host, from, to Rule) error {
	if err := o.Delete(ctx, h, from); err != nil {
		return err
	}
	return o.Create(ctx, h, to)
}

// Delete implements reconciler.Ops. The protocol is part of what the kernel looks for.
func (Ops) Delete(_ context.Context, h *host.Host, r Rule) error {
	ns, err := h.NS(r.NetNS)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	ours := false
	if err == nil {
		ours, err = present(ns, r, func(protocol uint8) bool { return protocol == resource.Protocol })
	}
	if ours && err == nil {
		h.Wrote("delete %s", r.ID())
		err = ns.Request(request(unix.RTM_DELRULE, 0, r))
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete %s: %w", r.ID(), err)
	}
	return nil
}

// alone fails where somebody has the same rule already: to the kernel, the protocol makes them two.
func alone(ns *host.NS, r Rule) error {
	there, err := present(ns, r, func(protocol uint8) bool { return protocol != resource.Protocol })
	if there && err == nil {
		return unix.EEXIST
	}
	return err
}

// present reports whether there is a rule with r's key and a protocol that fits.
func present(ns *host.NS, r Rule, fits func(protocol uint8) bool) (bool, error) {
	rules, err := ns.Rules()
	return slices.ContainsFunc(rules, func(k netlink.Rule) bool {
		return k.Priority == r.Priority && k.Table == r.Table && host.Prefix(k.Src) == r.Src && fits(k.Protocol)
	}), err
}

func request(kind, flags int, r Rule) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK)
	msg := &nl.RtMsg{RtMsg: unix.RtMsg{Family: unix.AF_INET, Src_len: uint8(r.Src.Bits()), Type: unix.RTN_UNICAST}}
	if r.Src.Addr().Is6() {
		msg.Family = unix.AF_INET6
	}
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(nl.FRA_SRC, r.Src.Addr().AsSlice()))
	req.AddData(nl.NewRtAttr(nl.FRA_PRIORITY, nl.Uint32Attr(uint32(r.Priority))))
	req.AddData(nl.NewRtAttr(nl.FRA_TABLE, nl.Uint32Attr(uint32(r.Table))))
	req.AddData(nl.NewRtAttr(nl.FRA_PROTOCOL, nl.Uint8Attr(resource.Protocol)))
	return req
}
