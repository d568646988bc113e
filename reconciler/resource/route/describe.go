package route

import (
	"fmt"
	"strings"

	"plumb.internal/plumb/reconciler/resource"
)

// Describe implements resource.Describer, as `ip route` prints it: "default via 169.254.10.24 dev eth0 onlink".
func (r Route) Describe() string {
	var b strings.Builder
	if r.Unreachable {
		b.WriteString("unreachable ")
	}
	switch {
	case r.Dst.Bits() == 0 && r.Dst.Addr().Is4():
		b.WriteString("default")
	case r.Dst.Bits() == 0 && !r.Gateway.IsValid():
		b.WriteString("::/0") // "default" alone would read as IPv4's
	case r.Dst.Bits() == 0:
		b.WriteString("default")
	default:
		b.WriteString(r.Dst.String())
	}
	if r.Gateway.IsValid() {
		b.WriteString(" via " + r.Gateway.String())
	}
	if r.Dev != "" {
		b.WriteString(" dev " + r.Dev)
	}
	if r.Table != MainTable {
		fmt.Fprintf(&b, " table %d", r.Table)
	}
	if r.Src.IsValid() {
		b.WriteString(" src " + r.Src.String())
	}
	if r.Metric != 0 && (r.Dst.Addr().Is4() || r.Metric != 1024) {
		fmt.Fprintf(&b, " metric %d", r.Metric)
	}
	if r.MTU != 0 {
		fmt.Fprintf(&b, " mtu %d", r.MTU)
	}
	if r.OnLink {
		b.WriteString(" onlink")
	}
	return b.String()
}

// Device implements resource.Sitter.
func (r Route) Device() resource.Device { return resource.Device{NetNS: r.NetNS, Name: r.Dev} }

// WithLink implements resource.Sitter.
func (r Route) WithLink(id resource.ID) resource.Resource {
	r.Link = id
	return r
}
