package sysctl

import (
	"strings"

	"plumb.internal/plumb/reconciler/resource"
)

// Restored implements resource.Restorer. The kernel doesn't say what a setting has to wait for, but its name does: for its
// device, and forwarding for what keeps it from dropping routes.
func (s Sysctl) Restored(found *resource.Found) resource.Resource {
	s.severs = false
	if dev := device(s.Key); dev != "" {
		s.Link = found.Link(resource.Device{NetNS: s.NetNS, Name: dev})
	}
	if s.Key == forwarding6 || isAcceptRA(s.Key) {
		for _, id := range found.IDs(Kind) {
			if id.NetNS == s.NetNS && isAcceptRA(id.Name) && (s.Key == forwarding6 || id.Name < s.Key) {
				s.Follow = id // the last one, which follows the others
			}
		}
	}
	return s
}

const forwarding6 = "net.ipv6.conf.all.forwarding"

func isAcceptRA(key string) bool {
	dev := device(key)
	return dev != "" && strings.HasPrefix(key, "net.ipv6.") && strings.HasSuffix(key, ".accept_ra")
}

// device is the device that a setting is of, "" for none: eth0.5 for net.ipv4.conf.eth0/5.rp_filter.
func device(key string) string {
	part := strings.Split(key, ".")
	if len(part) != 5 || part[0] != "net" || (part[2] != "conf" && part[2] != "neigh") || part[3] == "all" || part[3] == "default" {
		return ""
	}
	return strings.ReplaceAll(part[3], "/", ".")
}
