package compiler

import (
	"fmt"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/reconciler/resource/nic"
)

const (
	plainSize = 64 << 10  // the largest packet without BIG TCP, in bytes
	bigSize   = 192 << 10 // with it
)

// cut says why large packets can't leave the node: each uplink's driver must cut them, or the kernel would do that itself.
func cut(s *situation) string {
	if s.set.AcceptAll {
		return ""
	}
	for _, dev := range s.node.Uplinks {
		var d features.Device
		if s.set.Host != nil {
			d = s.set.Host.Devices[dev]
		}
		switch {
		case s.set.Host != nil && d.MTU == 0:
			return "this machine has no device " + dev
		case d.GSOLimit == 0:
			return unknown + "how large packets the driver of uplink " + dev + " cuts" + anew
		case d.GSOLimit <= plainSize:
			return fmt.Sprintf("the driver of uplink %s%s cuts packets of at most %d bytes", dev, inBrackets(d.Driver), d.GSOLimit)
		}
	}
	return ""
}

func inBrackets(text string) string {
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

// oneFamily says which packets stay as they are.
func oneFamily(s *situation) string {
	switch {
	case !s.set.Supports(features.BigTCP4):
		return "IPv6 alone: " + lacks(s.set, features.BigTCP4)
	case !s.set.Supports(features.BigTCP6):
		return "IPv4 alone: " + lacks(s.set, features.BigTCP6)
	}
	return ""
}

// settleBigTCP decides how large packets are inside the host.
func (b *builder) settleBigTCP() {
	wanted, path := b.wish(b.node.Tuning.BigTCP, b.cfg.Tuning.BigTCP, bigTCP)
	if wanted == "" || b.choose(bigTCP, wanted, path, b.situation()) != "on" {
		return
	}
	size := uint32(bigSize)
	for _, dev := range b.node.Uplinks {
		if b.set.Host != nil {
			size = min(size, uint32(b.set.Host.Devices[dev].GSOLimit))
		}
	}
	b.tuned.sizes, b.tuned.sizesFrom = nic.Values{}, path
	if b.set.Supports(features.BigTCP6) {
		b.tuned.sizes[nic.GSO], b.tuned.sizes[nic.GRO] = size, size
	}
	if b.set.Supports(features.BigTCP4) {
		b.tuned.sizes[nic.GSO4], b.tuned.sizes[nic.GRO4] = size, size
	}
	for _, dev := range b.node.Uplinks {
		for s, v := range b.tuned.sizes {
			b.nic(dev, s, v, path)
		}
	}
}

// buildBigTCP sets the sizes on every device that plumb makes, but for bridges: those are only passed by what the node itself
// sends to their pods, and take the sizes of their smallest port.
func (b *builder) buildBigTCP() {
	if b.tuned.sizes == nil {
		return
	}
	for _, id := range b.out.State.Where(func(r resource.Resource) bool { l, ok := r.(link.Link); return ok && l.Type != link.Bridge }) {
		l := b.out.State[id].(link.Link)
		for _, d := range l.Devices() {
			b.put(nic.NIC{NetNS: d.NetNS, Dev: d.Name, Link: id, Values: b.tuned.sizes, From: b.tuned.sizesFrom})
		}
	}
}
