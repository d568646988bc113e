package link

import (
	"fmt"
	"strings"

	"plumb.internal/plumb/reconciler/resource"
)

// Describe implements resource.Describer, in the words of `ip link add`:
// "eth0 type veth mtu 1500 address 02:00:00:00:00:01 peer plumb1a2b3c4d".
func (l Link) Describe() string {
	var b strings.Builder
	b.WriteString(l.Name)
	if l.Parent != "" {
		b.WriteString("@" + l.Parent)
	}
	if l.Type != "" {
		b.WriteString(" type " + l.Type)
	}
	if l.Mode != "" {
		b.WriteString(" mode " + l.Mode)
	}
	if l.MTU != 0 {
		fmt.Fprintf(&b, " mtu %d", l.MTU)
	}
	if l.MAC != "" {
		b.WriteString(" address " + l.MAC)
	}
	if l.Peer != nil {
		b.WriteString(" peer " + l.Peer.Name)
		if l.Peer.Master != "" {
			b.WriteString(" master " + l.Peer.Master)
		}
		if l.Peer.Hairpin {
			b.WriteString(" hairpin on")
		}
	}
	return b.String()
}

// Devices implements resource.Maker: the device, and the root namespace's end of a pair.
func (l Link) Devices() []resource.Device {
	devices := []resource.Device{{NetNS: l.NetNS, Name: l.Name}}
	if l.Peer != nil {
		devices = append(devices, resource.Device{Name: l.Peer.Name})
	}
	return devices
}
