package sysctl

import (
	"strings"

	"plumb.internal/plumb/reconciler/resource"
)

// Describe implements resource.Describer, as sysctl(8) prints it: "net.ipv4.ip_forward = 1", or "net.core.somaxconn >= 2048".
func (s Sysctl) Describe() string {
	if s.AtLeast {
		return s.Key + " >= " + s.Value
	}
	return s.Key + " = " + s.Value
}

// Recorded implements resource.Recorder: the value from before is on record.
func (s Sysctl) Recorded() bool { return true }

// Device implements resource.Sitter: the device that the key names ("net.ipv4.conf.eth0/5.rp_filter": eth0.5), if it does.
func (s Sysctl) Device() resource.Device {
	part := strings.Split(s.Key, ".")
	if len(part) < 5 || part[0] != "net" || (part[2] != "conf" && part[2] != "neigh") {
		return resource.Device{NetNS: s.NetNS}
	}
	return resource.Device{NetNS: s.NetNS, Name: strings.ReplaceAll(part[3], "/", ".")}
}

// WithLink implements resource.Sitter.
func (s Sysctl) WithLink(id resource.ID) resource.Resource {
	s.Link = id
	return s
}
