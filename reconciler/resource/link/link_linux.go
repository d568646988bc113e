package link

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// newborn is the name of a child in a pod between its creation and its renaming. Many kernels look for the name of a new
// device in the namespace of the request too, and there the node's own eth0 would be in the way of the pod's.
const newborn = "plumb-new"

// Create makes the device or the pair in one call, already marked, and then settles and raises it. What a kill leaves
// behind carries the mark, and Update finishes it.
func (Ops) Create(_ context.Context, h *host.Host, l Link) error {
	root, pod, err := namespaces(h, l)
	if err != nil {
		return fmt.Errorf("create %s: %w", l.ID(), err)
	}
	fd := -1
	if l.NetNS != "" {
		if fd, err = pod.FD(); err != nil {
			return fmt.Errorf("create %s: %w", l.ID(), err)
		}
		defer unix.Close(fd)
	}
	name := l.Name
	if l.NetNS != "" && l.Peer == nil {
		if _, err := pod.Link(l.Name); err == nil {
			return fmt.Errorf("create %s: %w", l.ID(), fs.ErrExist)
		}
		name = newborn
		if _, err := remove(h, l.NetNS, newborn); err != nil { // of a creation that was killed
			return err
		}
	}
	req, err := creation(root, l, name, fd)
	if err != nil {
		return fmt.Errorf("create %s: %w", l.ID(), err)
	}
	h.Wrote("create %s", l.ID())
	if err := root.Request(req); err != nil {
		return fmt.Errorf("create %s: %w", l.ID(), err)
	}
	return finish(h, root, pod, l, name)
}

// namespaces returns the root namespace and that of the link.
func namespaces(h *host.Host, l Link) (root, own *host.NS, err error) {
	if root, err = h.NS(""); err != nil {
		return nil, nil, err
	}
	own, err = h.NS(l.NetNS)
	return root, own, err
}

// finish settles and raises what was created, under the name it has so far.
func finish(h *host.Host, root, pod *host.NS, l Link, name string) error {
	made, err := pod.Link(name)
	if err != nil {
		return err
	}
	var end *host.Link
	if l.Peer != nil {
		if end, err = root.Link(l.Peer.Name); err != nil {
			return err
		}
		if err := settle(h, root, end, l.NetNS, change{mtu: l.Peer.MTU}); err != nil {
			return err
		}
		if l.Peer.Hairpin {
			if err := setHairpin(h, root, end, true); err != nil {
				return err
			}
		}
	}
	if err := settle(h, pod, made, l.NetNS, change{mtu: l.MTU, name: l.Name}); err != nil {
		return err
	}
	if end != nil {
		if err := raise(h, root, end); err != nil {
			return err
		}
	}
	return raise(h, pod, made)
}

// Update mends MTU, master, mark and whatever Observe found at fault.
func (Ops) Update(_ context.Context, h *host.Host, _, to Link) error {
	root, pod, err := namespaces(h, to)
	if err != nil {
		return fmt.Errorf("update %s: %w", to.ID(), err)
	}
	made, err := pod.Link(to.Name)
	if err != nil {
		return fmt.Errorf("update %s: %w", to.ID(), err)
	}
	var end *host.Link
	if to.Peer != nil {
		if end, err = root.Link(to.Peer.Name); err != nil {
			return fmt.Errorf("update %s: %w", to.ID(), err)
		}
		c := change{mtu: to.Peer.MTU, master: new(0)}
		if to.Peer.Master != "" {
			if *c.master, err = root.LinkIndex(to.Peer.Master); err != nil {
				return fmt.Errorf("update %s: %w", to.ID(), err)
			}
		}
		if err := settle(h, root, end, to.NetNS, c); err != nil {
			return err
		}
		if to.Peer.Hairpin || end.Hairpin && to.Peer.Master != "" {
			if err := setHairpin(h, root, end, to.Peer.Hairpin); err != nil {
				return err
			}
		}
	}
	if err := settle(h, pod, made, to.NetNS, change{mtu: to.MTU}); err != nil {
		return err
	}
	if end != nil && !end.Up() {
		if err := raise(h, root, end); err != nil {
			return err
		}
	}
	if !made.Up() {
		if err := raise(h, pod, made); err != nil {
			return err
		}
	}
	if made.Kind == Bridge || made.Kind == Netkit {
		return adjust(h, root, made, end)
	}
	return nil
}

// change is what settle sets beyond mark, alias and the way of IPv6 addresses.
type change struct {
	mtu    int    // 0: as it is
	master *int   // nil: as it is; 0: none
	name   string // "": as it is
}

// settle sets what can't be set in the creating call. The device is still down then, so that no automatic address appears.
func settle(h *host.Host, ns *host.NS, l *host.Link, pod string, c change) error {
	req, _ := request(unix.RTM_SETLINK, l)
	if c.name != "" && c.name != l.Name {
		req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(c.name)))
	}
	if c.mtu != 0 && c.mtu != l.MTU {
		req.AddData(nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(c.mtu))))
	}
	if c.master != nil && *c.master != l.MasterIndex {
		req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(*c.master))))
	}
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(resource.Group)))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(h.Alias(pod))))
	if l.AddrGenMode >= 0 {
		spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
		spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, []byte{addrGenNone})
		req.AddData(spec)
	}
	h.Wrote("settle %s", For(ns.Name, l.Name))
	if err := ns.Request(req); err != nil {
		return fmt.Errorf("settle %s: %w", For(ns.Name, l.Name), err)
	}
	return nil
}

// setHairpin says whether a bridge's port sends out frames that came in by it.
func setHairpin(h *host.Host, root *host.NS, l *host.Link, on bool) error {
	req, _ := request(unix.RTM_NEWLINK, l)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_SLAVE_KIND, nl.NonZeroTerminated(Bridge))
	mode := byte(0)
	if on {
		mode = 1
	}
	info.AddRtAttr(nl.IFLA_INFO_SLAVE_DATA, nil).AddRtAttr(nl.IFLA_BRPORT_MODE, []byte{mode})
	req.AddData(info)
	h.Wrote("set hairpin of port %s", l.Name)
	if err := root.Request(req); err != nil {
		return fmt.Errorf("set hairpin of port %s: %w", l.Name, err)
	}
	return nil
}

// raise sets a device up.
func raise(h *host.Host, ns *host.NS, l *host.Link) error {
	req, msg := request(unix.RTM_SETLINK, l)
	msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	h.Wrote("set %s up", For(ns.Name, l.Name))
	if err := ns.Request(req); err != nil {
		return fmt.Errorf("set %s up: %w", For(ns.Name, l.Name), err)
	}
	return nil
}

// adjust sets the type's own settings of a bridge or a netkit pair again.
func adjust(h *host.Host, root *host.NS, made, end *host.Link) error {
	l := made
	if end != nil {
		l = end // a netkit pair takes changes at its first end only
	}
	send := func(fill func(info *nl.RtAttr)) error {
		req, _ := request(unix.RTM_NEWLINK, l)
		info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
		info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(l.Kind))
		fill(info)
		req.AddData(info)
		h.Wrote("adjust link %s", l.Name)
		if err := root.Request(req); err != nil {
			return fmt.Errorf("adjust link %s: %w", l.Name, err)
		}
		return nil
	}
	if l.STP != 0 { // as long as it runs, the kernel refuses a forward delay of 0, which it looks at first
		err := send(func(info *nl.RtAttr) {
			info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_BR_STP_STATE, nl.Uint32Attr(0))
		})
		if err != nil {
			return err
		}
	}
	return send(func(info *nl.RtAttr) { typeData(info, l.Kind, "") })
}

// request begins a request about a device that is there.
func request(kind int, l *host.Link) (*nl.NetlinkRequest, *nl.IfInfomsg) {
	req := nl.NewNetlinkRequest(kind, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(l.Index)
	req.AddData(msg)
	return req, msg
}

// creation is the one request that makes the device, or both ends of a pair, complete and marked. fd is the pod's
// namespace, -1 for none.
func creation(root *host.NS, l Link, name string, fd int) (*nl.NetlinkRequest, error) {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(l.Type))
	data := typeData(info, l.Type, l.Mode)
	add := func(kind int, b []byte) { req.AddData(nl.NewRtAttr(kind, b)) }
	if l.Peer != nil {
		if err := attributes(add, l.Peer.Name, l.Peer.MAC, l.Peer.MTU); err != nil {
			return nil, err
		}
		if l.Peer.Master != "" {
			master, err := root.LinkIndex(l.Peer.Master)
			if err != nil {
				return nil, err
			}
			add(unix.IFLA_MASTER, nl.Uint32Attr(uint32(master)))
		}
		kind := nl.VETH_INFO_PEER
		if l.Type == Netkit {
			kind = nl.IFLA_NETKIT_PEER_INFO
		}
		peer := data.AddRtAttr(kind, nil)
		nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
		inPeer := func(kind int, b []byte) { peer.AddRtAttr(kind, b) }
		if err := attributes(inPeer, name, l.MAC, l.MTU); err != nil {
			return nil, err
		}
		if fd >= 0 {
			inPeer(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(fd)))
		}
		req.AddData(info)
		return req, nil
	}
	mtu := l.MTU
	if l.Type == Bridge && mtu != 0 {
		// A bridge takes over its ports' MTU unless its own was changed once: settle does that, from another value.
		mtu--
	}
	if err := attributes(add, name, l.MAC, mtu); err != nil {
		return nil, err
	}
	if l.Parent != "" {
		parent, err := root.LinkIndex(l.Parent)
		if err != nil {
			return nil, err
		}
		add(unix.IFLA_LINK, nl.Uint32Attr(uint32(parent)))
	}
	if fd >= 0 {
		add(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(fd)))
	}
	req.AddData(info)
	return req, nil
}

// attributes adds what every device has.
func attributes(add func(kind int, b []byte), name, mac string, mtu int) error {
	add(unix.IFLA_IFNAME, nl.ZeroTerminated(name))
	add(unix.IFLA_GROUP, nl.Uint32Attr(resource.Group))
	if mtu != 0 {
		add(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu)))
	}
	if mac == "" {
		return nil
	}
	hw, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	add(unix.IFLA_ADDRESS, hw)
	return nil
}

// typeData adds the settings of a type; mode "" leaves the mode out.
func typeData(info *nl.RtAttr, kind, mode string) *nl.RtAttr {
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	switch kind {
	case Bridge:
		data.AddRtAttr(nl.IFLA_BR_STP_STATE, nl.Uint32Attr(0))
		data.AddRtAttr(nl.IFLA_BR_FORWARD_DELAY, nl.Uint32Attr(0))
		data.AddRtAttr(nl.IFLA_BR_MCAST_SNOOPING, []byte{0})
	case Macvlan:
		data.AddRtAttr(nl.IFLA_MACVLAN_MODE, nl.Uint32Attr(macvlanBridge))
	case IPvlan:
		for i, m := range ipvlanModes {
			if m == mode {
				data.AddRtAttr(nl.IFLA_IPVLAN_MODE, nl.Uint16Attr(uint16(i)))
			}
		}
	case Netkit:
		// The scrub attributes stay away: their default is to scrub, and older kernels don't know them.
		if mode != "" {
			data.AddRtAttr(nl.IFLA_NETKIT_MODE, nl.Uint32Attr(netkitL2))
		}
		data.AddRtAttr(nl.IFLA_NETKIT_POLICY, nl.Uint32Attr(0))
		data.AddRtAttr(nl.IFLA_NETKIT_PEER_POLICY, nl.Uint32Attr(0))
	}
	return data
}

// Delete removes the device, and with one end of a pair the other. One that isn't ours (any more) stays.
func (Ops) Delete(_ context.Context, h *host.Host, l Link) error {
	removed, err := remove(h, l.NetNS, l.Name)
	if err == nil && !removed && l.Peer != nil {
		_, err = remove(h, "", l.Peer.Name) // the pod's end was missing, or lost its mark
	}
	return err
}

// remove deletes a device by its index, after a look at its mark. It reports whether there was one of ours.
func remove(h *host.Host, netns, name string) (removed bool, err error) {
	ns, err := h.NS(netns)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	found, err := ns.Link(name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !h.Ours(found) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	req, _ := request(unix.RTM_DELLINK, found)
	h.Wrote("delete %s", For(netns, name))
	if err := ns.Request(req); err != nil && !errors.Is(err, unix.ENODEV) {
		return false, fmt.Errorf("delete %s: %w", For(netns, name), err)
	}
	return true, nil
}
