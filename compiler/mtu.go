package compiler

import (
	"fmt"
	"slices"
	"strconv"

	"plumb.internal/plumb/reconciler/resource/nic"
)

// defaultMTU is for pods whose files name no MTU, if the uplink carries that much.
const defaultMTU = 1500

// settleMTUs fills in the MTUs that are left out, and checks the others against the uplink that the pods' packets leave by.
func (b *builder) settleMTUs() {
	want, from := b.tunedMTU()
	if want != 0 {
		path := (&pod{node: b.node}).from(from, "mtu")
		if b.choose(tuningMTU, strconv.Itoa(want), path, b.situation()) != "" {
			b.tuned.mtu = want
			for _, u := range b.node.Uplinks {
				b.nic(u, nic.MTU, uint32(want), path)
			}
		}
	}
	for _, p := range b.node.pods {
		if p.MTU == 0 && b.tuned.mtu != 0 {
			p.MTU, p.mtuFrom = want, from
		}
		uplink := b.leavesBy(p)
		known := b.uplinkMTU(uplink)
		switch {
		case p.MTU == 0 && known > 0:
			p.MTU = min(defaultMTU, known)
		case p.MTU == 0:
			p.MTU = defaultMTU
		case uplink == "" || p.bad:
		case known > 0 && p.MTU > known:
			b.add(p.from(p.mtuFrom, "mtu"), b.node.path+".uplinks", "mtu %d of pod %s is above that of uplink %s, %d", p.MTU, p.name, uplink, known)
		case known > 0:
		case b.set.Host == nil && !b.set.AcceptAll:
			b.add(p.from(p.mtuFrom, "mtu"), "", "mtu %d can't be checked: the features say nothing of uplink %s; write them anew with plumb features -o json", p.MTU, uplink)
		case b.set.Host == nil:
			b.warn("whether the MTUs fit uplink %s isn't checked: give the machine's features (--features FILE)", uplink)
		default:
			b.warn("uplink %s isn't a device of this machine, so whether the MTUs fit isn't checked", uplink)
		}
		b.checkIPv6MTU(p, known)
	}
}

// tunedMTU is the MTU that the files ask for on the node, and where; 0 for none.
func (b *builder) tunedMTU() (bytes int, from layer) {
	if n := b.node.Tuning.MTU; n != 0 {
		return n, inNodeTuning
	}
	return b.cfg.Tuning.MTU, inTuning
}

// minIPv6MTU is the least that IPv6 works with (RFC 8200); the kernel switches it off on devices that carry less.
const minIPv6MTU = 1280

// checkIPv6MTU finds MTUs that are too small for the addresses that pods were given: those that the files name were
// looked at before.
func (b *builder) checkIPv6MTU(p *pod, uplink int) {
	i := slices.IndexFunc(p.addrs, func(a address) bool { return a.Is6() })
	switch {
	case i < 0 || p.bad || p.MTU >= minIPv6MTU:
	case uplink > 0 && uplink < minIPv6MTU:
		b.add(p.addrs[i].cidr.path, b.node.path+".uplinks", "podCIDR %s needs an MTU of %d, and the uplink of pod %s has %d",
			p.addrs[i].cidr.Prefix, minIPv6MTU, p.name, uplink)
	default:
		b.add(p.from(p.mtuFrom, "mtu"), p.addrs[i].cidr.path, "mtu %d is too small: IPv6 needs %d", p.MTU, minIPv6MTU)
	}
}

// leavesBy is the uplink that a pod's packets leave the node by: its parent, else the first one; "" if there is none.
func (b *builder) leavesBy(p *pod) string {
	if p.child() {
		return p.Uplink
	}
	if len(b.node.Uplinks) > 0 {
		return b.node.Uplinks[0]
	}
	return ""
}

// uplinkMTU is what an uplink carries once the files are applied, 0 if it isn't known.
func (b *builder) uplinkMTU(uplink string) int {
	if b.set.Host == nil {
		return b.tuned.mtu
	}
	d, there := b.set.Host.Devices[uplink]
	if there && b.tuned.mtu != 0 && slices.Contains(b.node.Uplinks, uplink) {
		return b.tuned.mtu
	}
	return d.MTU
}

// warn notes something once.
func (b *builder) warn(format string, args ...any) {
	if w := fmt.Sprintf(format, args...); !slices.Contains(b.out.Warnings, w) {
		b.out.Warnings = append(b.out.Warnings, w)
	}
}
