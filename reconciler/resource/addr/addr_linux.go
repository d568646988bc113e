package addr

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

const ifaProto = 11 // IFA_PROTO, since Linux 5.18

// Observe implements reconciler.Ops. Kernels before 5.18 store no protocol with an address; there an address is ours if
// its device is.
func (Ops) Observe(ctx context.Context, h *host.Host, wanted []Addr) (owned, foreign []Addr, err error) {
	all, err := h.Devices(ctx)
	if err != nil {
		return nil, nil, err
	}
	type device struct{ netns, dev string }
	devices := map[device]bool{}
	ids := map[resource.ID]bool{}
	for _, w := range wanted {
		devices[device{w.NetNS, w.Dev}] = true
		ids[w.ID()] = true
	}
	stored, err := protocolStored(all)
	if err != nil {
		return nil, nil, err
	}
	for _, devs := range all {
		name := devs.NS.Name
		addrs, err := devs.NS.Addrs()
		if err != nil {
			return nil, nil, err
		}
		for _, k := range addrs {
			a := observed(name, devs.Name(k.LinkIndex), k)
			// In our own namespace everything on a pod's device is ours to tidy.
			ourDevice := devs.Ours(k.LinkIndex) && a.Dev != "lo" || devs.Own && devices[device{name, a.Dev}]
			switch {
			case a.Dev == "":
				// The device went between two dumps.
			case k.Protocol == resource.Protocol:
				owned = append(owned, a)
			case kernelMade(k, a) && !ids[a.ID()]:
				// Comes and goes with the device.
			case ourDevice && (devs.Own || !stored):
				a.Stray = stored
				owned = append(owned, a)
			case !devs.Own && !a.Prefix.Addr().IsLoopback():
				a.Protocol = k.Protocol
				foreign = append(foreign, a)
			}
		}
	}
	off, err := switchedOff(h, wanted)
	return owned, append(foreign, off...), err
}

// protocolStored reports whether the kernel keeps the protocol of addresses. It marks its own 127.0.0.1 and link-local
// ones, so any machine with an address shows it.
func protocolStored(all []*host.Devices) (bool, error) {
	for _, devs := range all {
		addrs, err := devs.NS.Addrs()
		if err != nil {
			return false, err
		}
		for _, a := range addrs {
			if a.Protocol != 0 {
				return true, nil
			}
		}
	}
	return false, nil
}

// kernelMade reports whether the kernel made an address by itself: the loopback's, link-local ones, and those of router
// advertisements. Addresses with an end (DHCP's) are somebody's who is looking after them.
func kernelMade(k netlink.Addr, a Addr) bool {
	ip := a.Prefix.Addr()
	if ip.IsLoopback() {
		return true
	}
	if ip.Is6() && ip.IsLinkLocalUnicast() {
		return k.Flags&unix.IFA_F_NOPREFIXROUTE == 0 // it makes its prefix route, we don't
	}
	return k.Flags&unix.IFA_F_PERMANENT == 0 && k.Flags&unix.IFA_F_TENTATIVE == 0
}

func observed(netns, dev string, k netlink.Addr) Addr {
	a := Addr{NetNS: netns, Dev: dev, Prefix: host.Prefix(k.IPNet)}
	var trouble []string
	say := func(yes bool, what string) {
		if yes {
			trouble = append(trouble, what)
		}
	}
	if a.Prefix.Addr().Is6() {
		say(k.Flags&unix.IFA_F_DADFAILED != 0, "dadfailed")
		say(k.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) == unix.IFA_F_TENTATIVE, "tentative")
	}
	say(k.Flags&unix.IFA_F_DEPRECATED != 0, "deprecated")
	say(k.Flags&unix.IFA_F_NOPREFIXROUTE == 0, "prefix route")
	if k.Peer != nil {
		trouble = append(trouble, "peer "+k.Peer.String())
	}
	a.Trouble = strings.Join(trouble, ", ")
	return a
}

// Create implements reconciler.Ops.
func (Ops) Create(_ context.Context, h *host.Host, a Addr) error {
	ns, index, err := h.Device(a.NetNS, a.Dev)
	if err != nil {
		return fmt.Errorf("create %s: %w", a.ID(), err)
	}
	flags := uint32(unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_PERMANENT)
	if a.Prefix.Addr().Is6() {
		flags |= unix.IFA_F_NODAD
	}
	add := func() error {
		req := request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, a.Prefix, index)
		req.AddData(nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(flags)))
		req.AddData(nl.NewRtAttr(ifaProto, nl.Uint8Attr(resource.Protocol)))
		h.Wrote("create %s", a.ID())
		return ns.Request(req)
	}
	err = add()
	if errors.Is(err, unix.EEXIST) && a.Prefix.Addr().Is6() {
		// One device has an IPv6 address once, whatever the prefix length: another length is a change of ours.
		dropped, dropErr := dropOtherLength(h, ns, index, a)
		switch {
		case dropErr != nil:
			err = dropErr
		case dropped:
			err = add()
		}
	}
	return wrap("create", a, err)
}

// dropOtherLength deletes an IPv6 address of ours that differs from a in nothing but the prefix length.
func dropOtherLength(h *host.Host, ns *host.NS, index int, a Addr) (dropped bool, err error) {
	addrs, err := ns.Addrs()
	if err != nil {
		return false, err
	}
	l, err := ns.Link(a.Dev)
	if err != nil {
		return false, err
	}
	for _, k := range addrs {
		old := host.Prefix(k.IPNet)
		ours := k.Protocol == resource.Protocol || (k.Protocol == 0 && l.Group == resource.Group)
		if k.LinkIndex != index || old.Addr() != a.Prefix.Addr() || old == a.Prefix || !ours {
			continue
		}
		h.Wrote("delete %s", Addr{NetNS: a.NetNS, Dev: a.Dev, Prefix: old}.ID())
		return true, ns.Request(request(unix.RTM_DELADDR, 0, old, index))
	}
	return false, nil
}

// Update implements reconciler.Ops. Diff never asks for it.
func (o Ops) Update(ctx context.Context, h *host.Host, from, to Addr) error {
	if err := o.Delete(ctx, h, from); err != nil {
		return err
	}
	return o.Create(ctx, h, to)
}

// Delete implements reconciler.Ops. The kernel deletes the other IPv4 addresses of a network together with the first one
// of that network, unless the device promotes the next one.
func (Ops) Delete(_ context.Context, h *host.Host, a Addr) error {
	ns, index, err := h.Device(a.NetNS, a.Dev)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", a.ID(), err)
	}
	addrs, err := ns.Addrs()
	if err != nil {
		return fmt.Errorf("delete %s: %w", a.ID(), err)
	}
	if !slices.ContainsFunc(addrs, func(k netlink.Addr) bool {
		return k.LinkIndex == index && host.Prefix(k.IPNet) == a.Prefix && mayBeOurs(k)
	}) {
		return nil
	}
	restore, err := promote(h, ns, index, a)
	if err != nil {
		return fmt.Errorf("delete %s: %w", a.ID(), err)
	}
	h.Wrote("delete %s", a.ID())
	err = ns.Request(request(unix.RTM_DELADDR, 0, a.Prefix, index))
	if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV) {
		err = nil
	}
	return wrap("delete", a, errors.Join(err, restore()))
}

// mayBeOurs reports whether nothing speaks against an address being ours: it isn't marked by somebody else.
func mayBeOurs(k netlink.Addr) bool { return k.Protocol == 0 || k.Protocol == resource.Protocol }

// promote makes the device keep the other addresses of a's network when a goes, if there are any.
func promote(h *host.Host, ns *host.NS, index int, a Addr) (restore func() error, err error) {
	nothing := func() error { return nil }
	if a.Prefix.Addr().Is6() || a.Prefix.IsSingleIP() {
		return nothing, nil
	}
	// Read afresh: the address that takes this one's place was created a moment ago.
	dev := &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: index}}
	addrs, err := ns.Handle().AddrList(dev, netlink.FAMILY_V4)
	if err != nil {
		return nil, err
	}
	others := false
	for _, k := range addrs {
		p := host.Prefix(k.IPNet)
		others = others || (p != a.Prefix && p.Masked() == a.Prefix.Masked())
	}
	if !others {
		return nothing, nil
	}
	file := "/proc/sys/net/ipv4/conf/" + a.Dev + "/promote_secondaries"
	set := func(value string) error {
		h.Wrote("set promote_secondaries of %s to %s", a.Dev, value)
		return ns.Do(func() error { return os.WriteFile(file, []byte(value), 0) })
	}
	var prior []byte
	if err := ns.Do(func() (err error) { prior, err = os.ReadFile(file); return err }); err != nil {
		return nil, err
	}
	if v := strings.TrimSpace(string(prior)); v != "0" {
		return nothing, nil
	}
	if err := set("1"); err != nil {
		return nil, err
	}
	return func() error { return set("0") }, nil
}

func request(kind, flags int, p netip.Prefix, index int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK)
	ip := p.Addr().AsSlice()
	family := unix.AF_INET
	if p.Addr().Is6() {
		family = unix.AF_INET6
	}
	msg := nl.NewIfAddrmsg(family)
	msg.Index, msg.Prefixlen = uint32(index), uint8(p.Bits())
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFA_LOCAL, ip))
	req.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, ip))
	return req
}

func wrap(verb string, a Addr, err error) error {
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, a.ID(), err)
	}
	return nil
}
