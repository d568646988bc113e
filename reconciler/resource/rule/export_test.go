package rule

import (
	"net/netip"

	"plumb.internal/plumb/reconciler/resource"
)

// PodsForTest stands for the resource of another kind that covers a podCIDR.
type PodsForTest struct {
	resource.Resource
	Range netip.Prefix
}

// ID implements resource.Resource.
func (p PodsForTest) ID() resource.ID { return resource.ID{Kind: "route", Name: p.Range.String()} }

// PodRange implements resource.PodPrefixer.
func (p PodsForTest) PodRange() (netip.Prefix, bool) { return p.Range, true }
