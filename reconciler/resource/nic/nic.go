// Package nic is the kind of a network device's own settings: how large packets may be inside the host, the rings and the
// interrupts of an uplink. The device itself is somebody else's, or another kind's.
//
// No mark is possible on settings. Of somebody else's device the values from before the first change are recorded in the
// run folder and come back on delete. A device that plumb made needs no record: before plumb set them, its sizes were the
// kernel's own, and only plumb sets larger ones.
package nic

import (
	"fmt"
	"strconv"
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "nic"

// Setting names one number of a device, as `ip` and `ethtool` do.
type Setting string

// The settings.
const (
	MTU        Setting = "mtu"
	GSO        Setting = "gso_max_size" // bytes of a packet before it is cut; with IPv6 where the IPv4 one is apart
	GRO        Setting = "gro_max_size" // bytes that packets are put together to
	GSO4       Setting = "gso_ipv4_max_size"
	GRO4       Setting = "gro_ipv4_max_size"
	RxRing     Setting = "rx-ring" // packets that the device can hold for the host
	TxRing     Setting = "tx-ring"
	RxUsecs    Setting = "rx-usecs" // how long an interrupt waits for more packets
	RxFrames   Setting = "rx-frames"
	TxUsecs    Setting = "tx-usecs"
	TxFrames   Setting = "tx-frames"
	AdaptiveRx Setting = "adaptive-rx" // 1: the driver finds the waiting time by itself
	AdaptiveTx Setting = "adaptive-tx"
)

// group is what the kernel reads and writes together.
type group int

const (
	ofLink group = iota
	ofRings
	ofCoalesce
	groups
)

// settings is the table of all settings, in the order in which they are shown.
var settings = []struct {
	name  Setting
	group group
	flaps bool // a driver may take the link down to change it
}{
	{MTU, ofLink, true}, {GSO, ofLink, false}, {GRO, ofLink, false}, {GSO4, ofLink, false}, {GRO4, ofLink, false},
	{RxRing, ofRings, true}, {TxRing, ofRings, true},
	{AdaptiveRx, ofCoalesce, false}, {AdaptiveTx, ofCoalesce, false}, {RxUsecs, ofCoalesce, false}, {RxFrames, ofCoalesce, false},
	{TxUsecs, ofCoalesce, false}, {TxFrames, ofCoalesce, false},
}

// sizes are the settings that plumb sets on its own devices, and never to less than plain.
var sizes = []Setting{GSO, GRO, GSO4, GRO4}

// plain is what every device's sizes are without BIG TCP.
const plain = 64 << 10

// Values are some of a device's settings.
type Values map[Setting]uint32

// NIC is one device with the settings that matter.
type NIC struct {
	NetNS string
	Dev   string
	// Link is what makes the device; zero for somebody else's.
	Link   resource.ID
	Values Values
	From   string

	// What follows is observed only.

	prior Values // what comes back when a setting isn't wanted any more
	soft  bool   // no hardware behind it, so no link flaps
}

// ID implements resource.Resource.
func (n NIC) ID() resource.ID { return resource.ID{Kind: Kind, NetNS: n.NetNS, Name: n.Dev} }

// After implements resource.Resource.
func (n NIC) After() []resource.ID { return n.DiesWith() }

// DiesWith implements resource.Resource: the namespace and the device, where that is plumb's.
func (n NIC) DiesWith() []resource.ID {
	var ids []resource.ID
	if n.NetNS != "" {
		ids = append(ids, resource.ID{Kind: "netns", Name: n.NetNS})
	}
	if n.Link != (resource.ID{}) {
		ids = append(ids, n.Link)
	}
	return ids
}

// Requires implements resource.Resource.
func (n NIC) Requires() []features.Feature {
	var needs []features.Feature
	if n.Values[GSO] > plain || n.Values[GRO] > plain {
		needs = append(needs, features.BigTCP6)
	}
	if n.Values[GSO4] > plain || n.Values[GRO4] > plain {
		needs = append(needs, features.BigTCP4)
	}
	return needs
}

// Origin implements resource.Resource.
func (n NIC) Origin() string { return n.From }

// Describe implements resource.Describer: "eth0 gso_max_size 196608 rx-ring 4096".
func (n NIC) Describe() string {
	var b strings.Builder
	b.WriteString(n.Dev)
	for _, s := range settings {
		if v, ok := n.Values[s.name]; ok {
			fmt.Fprintf(&b, " %s %d", s.name, v)
		}
	}
	return b.String()
}

// Recorded implements resource.Recorder: of somebody else's device.
func (n NIC) Recorded() bool { return n.Link == resource.ID{} }

// Device implements resource.Sitter.
func (n NIC) Device() resource.Device { return resource.Device{NetNS: n.NetNS, Name: n.Dev} }

// WithLink implements resource.Sitter.
func (n NIC) WithLink(id resource.ID) resource.Resource {
	n.Link = id
	return n
}

// Restored implements resource.Restorer: a device that is gone had no settings.
func (n NIC) Restored(*resource.Found) resource.Resource {
	if len(n.Values) == 0 {
		return nil
	}
	n.prior, n.soft = nil, false
	return n
}

// Disruption implements resource.Disrupter: hardware may lose its link for a change of some settings.
func (n NIC) Disruption(action resource.Action, from resource.Resource) resource.Disruption {
	before, ok := from.(NIC)
	if !ok || before.soft || n.Link != (resource.ID{}) {
		return resource.DisruptsNothing
	}
	wanted := n.Values
	if action == resource.Delete {
		wanted = nil
	}
	for _, s := range settings {
		if now, after, differs := before.change(s.name, wanted); differs && s.flaps && now != after {
			return resource.DisruptsLink
		}
	}
	return resource.DisruptsNothing
}

// change says what becomes of an observed setting where wanted is to be.
func (n NIC) change(s Setting, wanted Values) (before, after uint32, differs bool) {
	before, there := n.Values[s]
	after, asked := wanted[s]
	switch {
	case asked:
		return before, after, !there || before != after
	case there:
		prior, known := n.prior[s]
		return before, prior, known
	}
	return 0, 0, false
}

// Ops implements reconciler.Ops for settings of devices.
type Ops struct{}

// Diff lists what differs: settings that are wanted, and those that were and go back to what they were.
func (Ops) Diff(observed, desired NIC) (fields []resource.Field, inPlace bool) {
	for _, s := range settings {
		if before, after, differs := observed.change(s.name, desired.Values); differs {
			f := resource.Field{Name: string(s.name), After: strconv.FormatUint(uint64(after), 10)}
			if _, there := observed.Values[s.name]; there {
				f.Before = strconv.FormatUint(uint64(before), 10)
			}
			fields = append(fields, f)
		}
	}
	return fields, true
}
