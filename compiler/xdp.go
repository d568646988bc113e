package compiler

import (
	"fmt"
	"slices"
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource/bpflink"
)

const (
	objectXDP  = "xdp"
	programXDP = "uplink_xdp"
	xdpOff     = "off"
)

// nativeXDP says why the driver of an uplink can't run XDP programs. Where it can't be asked, whoever requires it has it
// tried when it is applied: the driver's no is an error then.
func nativeXDP(s *situation) string {
	if why := unattachable(s); why != "" || s.set.AcceptAll {
		return why
	}
	d := s.set.Host.Devices[s.uplink]
	switch {
	case d.XDP == "native", isVeth(d) && s.set.Supports(features.XDPNativeVeth):
		return ""
	case d.XDP == "generic" && d.XDPUnknown && !s.left:
		return ""
	}
	return driverOf(s, d) + d.Reason
}

// genericXDP says why the stack can't run XDP programs for an uplink.
func genericXDP(s *situation) string {
	if why := unattachable(s); why != "" || s.set.AcceptAll {
		return why
	}
	if d := s.set.Host.Devices[s.uplink]; d.XDP == "none" {
		return driverOf(s, d) + d.Reason
	}
	return ""
}

// unattachable says why there is nothing to attach to.
func unattachable(s *situation) string {
	if s.uplink == "" {
		return "the node names no uplink"
	}
	if s.set.AcceptAll {
		return ""
	}
	if s.set.Host == nil {
		return unknown + "the device" + anew
	}
	if s.set.Host.Devices[s.uplink].MTU == 0 {
		return "this machine has no device " + s.uplink
	}
	return ""
}

// isVeth reports whether a device is an end of a pair: what its driver can do is tried out with a pair made for that.
func isVeth(d features.Device) bool { return d.Driver == "veth" }

func driverOf(s *situation, d features.Device) string {
	return fmt.Sprintf("uplink %s%s: ", s.uplink, inBrackets(d.Driver))
}

// driverXDP is the driver's answer.
func driverXDP(s *situation) string {
	if s.set.AcceptAll {
		return ""
	}
	d := s.set.Host.Devices[s.uplink]
	switch {
	case d.XDP == "native":
		return driverOf(s, d) + d.Reason
	case isVeth(d) && s.set.Supports(features.XDPNativeVeth):
		return driverOf(s, d) + s.set.Why(features.XDPNativeVeth)
	}
	return driverOf(s, d) + d.Reason + ", so the driver is asked by trying, and apply fails where it refuses"
}

// settleXDP decides which program sits on the earliest hook of each uplink. Without a word there is none.
func (b *builder) settleXDP() {
	wanted, path := b.wish(b.node.Tuning.XDP, b.cfg.Tuning.XDP, tuningXDP)
	if wanted == "" {
		return
	}
	t, s := settingOf(tuningXDP), b.situation()
	uplinks, _ := s.uplinks()
	if len(uplinks) == 0 {
		uplinks = b.node.Uplinks
	}
	if len(uplinks) == 0 {
		uplinks = []string{""}
	}
	chosen, reasons := make([]string, len(uplinks)), make([]string, len(uplinks))
	for i, dev := range uplinks {
		if s.uplink = dev; asks(wanted) {
			s.left = false
			if why := t.refuse(wanted, s); why != "" {
				b.refused(t, wanted, path, why)
				return
			}
			chosen[i], reasons[i] = wanted, t.limit(wanted, s)
			continue
		}
		s.left = true
		chosen[i], reasons[i] = t.auto(s)
	}
	reason := together(uplinks, reasons, ": ", "; ")
	if asks(wanted) {
		reason = sentences(explicitly, reason)
	}
	b.askedBy[tuningXDP] = path
	b.choice(tuningXDP, wanted, together(uplinks, chosen, " ", ", "), reason)
	for i, dev := range uplinks {
		if chosen[i] == xdpOff || dev == "" {
			continue
		}
		b.tuned.xdp = append(b.tuned.xdp, early{dev, chosen[i]})
	}
	b.tuned.xdpFrom = path
	if len(b.tuned.xdp) > 0 {
		b.warnGone()
	}
	if b.datapath.sizes == nil {
		b.datapath.sizes = b.sizeMaps()
	}
}

// early is an uplink with a program of XDP.
type early struct{ dev, mode string }

// together is what is said of all uplinks: once if it is the same of all, else with their names.
func together(uplinks, said []string, is, and string) string {
	if !slices.ContainsFunc(said, func(s string) bool { return s != said[0] }) {
		return said[0]
	}
	var parts []string
	for i, dev := range uplinks {
		parts = append(parts, dev+is+said[i])
	}
	return strings.Join(parts, and)
}

// buildXDP makes the program, and attaches it to the uplinks that are to have it.
func (b *builder) buildXDP(used usedMaps) {
	way := bpflink.Netlink
	if b.set.Supports(features.LinkXDP) {
		way = bpflink.Link
	}
	for _, e := range b.tuned.xdp {
		a := bpflink.Attachment{Dev: e.dev, Hook: bpflink.XDP, Way: way, Mode: e.mode, From: b.tuned.xdpFrom,
			Program: b.program(objectXDP, programXDP, nil, used, nil)}
		if b.set.Host != nil {
			a.Hardware = !isVeth(b.set.Host.Devices[e.dev])
		}
		b.put(a)
	}
}
