package addr

import "plumb.internal/plumb/reconciler/resource"

// Describe implements resource.Describer: "10.0.0.10/32 dev eth0".
func (a Addr) Describe() string { return a.Prefix.String() + " dev " + a.Dev }

// Device implements resource.Sitter.
func (a Addr) Device() resource.Device { return resource.Device{NetNS: a.NetNS, Name: a.Dev} }

// WithLink implements resource.Sitter.
func (a Addr) WithLink(id resource.ID) resource.Resource {
	a.Link = id
	return a
}

// Founds implements resource.Founder.
func (a Addr) Founds() bool { return true }
