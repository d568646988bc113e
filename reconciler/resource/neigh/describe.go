package neigh

import "plumb.internal/plumb/reconciler/resource"

// Describe implements resource.Describer: "169.254.10.24 dev eth0 lladdr 02:00:00:00:00:01 nud permanent".
func (n Neigh) Describe() string {
	if n.Proxy {
		return "proxy " + n.IP.String() + " dev " + n.Dev
	}
	return n.IP.String() + " dev " + n.Dev + " lladdr " + n.MAC + " nud permanent"
}

// Device implements resource.Sitter.
func (n Neigh) Device() resource.Device { return resource.Device{NetNS: n.NetNS, Name: n.Dev} }

// WithLink implements resource.Sitter.
func (n Neigh) WithLink(id resource.ID) resource.Resource {
	n.Link = id
	return n
}
