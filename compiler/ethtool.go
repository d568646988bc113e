package compiler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource/nic"
	"plumb.internal/plumb/schema"
)

// asked is one number that the files set of a device, by the name of its field.
type asked struct {
	field   string
	setting nic.Setting
	value   uint32
}

// rings are those that the files set.
func rings(r schema.Rings) (list []asked) {
	for _, f := range []asked{{"rx", nic.RxRing, uint32(r.Rx)}, {"tx", nic.TxRing, uint32(r.Tx)}} {
		if f.value != 0 {
			list = append(list, f)
		}
	}
	return list
}

// coalesced are the waiting times that the files set.
func coalesced(c schema.Coalesce) (list []asked) {
	for _, f := range []struct {
		name    string
		setting nic.Setting
		on      *bool
		n       *int
	}{
		{"adaptiveRx", nic.AdaptiveRx, c.AdaptiveRx, nil}, {"adaptiveTx", nic.AdaptiveTx, c.AdaptiveTx, nil},
		{"rxUsecs", nic.RxUsecs, nil, c.RxUsecs}, {"rxFrames", nic.RxFrames, nil, c.RxFrames},
		{"txUsecs", nic.TxUsecs, nil, c.TxUsecs}, {"txFrames", nic.TxFrames, nil, c.TxFrames},
	} {
		switch {
		case f.on != nil && *f.on:
			list = append(list, asked{f.name, f.setting, 1})
		case f.on != nil:
			list = append(list, asked{f.name, f.setting, 0})
		case f.n != nil:
			list = append(list, asked{f.name, f.setting, uint32(*f.n)})
		}
	}
	return list
}

// words are what the files ask for, as choices show it: "rx 4096, tx 4096".
func words(list []asked) string {
	var parts []string
	for _, a := range list {
		parts = append(parts, fmt.Sprintf("%s %d", a.field, a.value))
	}
	return strings.Join(parts, ", ")
}

// ownDevice says why a device's own settings can't be touched, or aren't known.
func ownDevice(s *situation) (d features.Device, why string) {
	if !slices.Contains(s.node.Uplinks, s.uplink) {
		return d, fmt.Sprintf("%s isn't an uplink of the node, and plumb touches no other device", s.uplink)
	}
	switch {
	case s.set.AcceptAll:
		return d, ""
	case s.set.Host == nil:
		return d, unknown + s.uplink + anew
	}
	if d = s.set.Host.Devices[s.uplink]; d.MTU == 0 {
		return d, "this machine has no device " + s.uplink
	}
	if d.MaxMTU+d.RXRing+d.TXRing == 0 && !d.Coalesce {
		return d, unknown + "what the driver of " + s.uplink + " takes" + anew
	}
	return d, ""
}

// noRings says why a device can't have rings of some sizes.
func noRings(s *situation, _ string) string {
	d, why := ownDevice(s)
	if why != "" || s.set.AcceptAll {
		return why
	}
	for _, a := range s.asked {
		most := map[nic.Setting]int{nic.RxRing: d.RXRing, nic.TxRing: d.TXRing}[a.setting]
		switch {
		case most == 0:
			return fmt.Sprintf("not available here: the driver of %s%s has no %s ring that could be set", s.uplink, inBrackets(d.Driver), a.field)
		case int(a.value) > most:
			return fmt.Sprintf("the driver of %s%s takes %s rings of at most %d", s.uplink, inBrackets(d.Driver), a.field, most)
		}
	}
	return ""
}

// noCoalesce says why a device's interrupts can't be told to wait.
func noCoalesce(s *situation, _ string) string {
	d, why := ownDevice(s)
	if why != "" || s.set.AcceptAll || d.Coalesce {
		return why
	}
	return fmt.Sprintf("not available here: the driver of %s%s can't be told how long interrupts wait", s.uplink, inBrackets(d.Driver))
}

// settleEthtool decides on the uplinks' rings and interrupts.
func (b *builder) settleEthtool() {
	all, own := &b.cfg.Tuning.Host, &b.node.Tuning.Host
	setDevices(b, hostRings, all.Rings, own.Rings, rings)
	setDevices(b, hostCoalesce, all.Coalesce, own.Coalesce, coalesced)
}

// setDevices settles one field that has a value for each device; a node's own value of a device goes before that for all.
func setDevices[T any](b *builder, subject string, all, own map[string]T, list func(T) []asked) {
	devices := maps.Clone(all)
	if devices == nil {
		devices = map[string]T{}
	}
	maps.Copy(devices, own)
	subject = strings.TrimSuffix(subject, ".DEVICE")
	for _, dev := range slices.Sorted(maps.Keys(devices)) {
		path := field(subject, dev)
		if _, mine := own[dev]; mine {
			path = b.node.path + "." + path
		}
		t, s := settingOf(subject+".DEVICE"), b.situation()
		if s.uplink, s.asked = dev, list(devices[dev]); len(s.asked) == 0 {
			continue
		}
		wanted := words(s.asked)
		if why := t.refuse(wanted, s); why != "" {
			b.refused(t, wanted, path, why)
			continue
		}
		for _, a := range s.asked {
			b.nic(dev, a.setting, a.value, path)
		}
		b.askedBy[subject+"."+dev] = path
		b.choice(subject+"."+dev, wanted, wanted, explicitly)
	}
}
