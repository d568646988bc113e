package rule

import (
	"net/netip"

	"plumb.internal/plumb/reconciler/resource"
)

// Restored implements resource.Restorer. A rule that says more than plumb's do was somebody's who used our protocol.
func (r Rule) Restored(*resource.Found) resource.Resource {
	if r.Rest != "" {
		return nil
	}
	r.Dst, r.Protocol = netip.Prefix{}, 0
	return r
}
