// Package nft is the kind of plumb's own nftables table: services on kernels, or nodes, without those in eBPF.
package nft

import (
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "nft"

// Table is table `inet plumb` of the root namespace as a whole: its elements change in one transaction.
type Table struct {
	Frontends []resource.Frontend // ordered by name
	From      string
}

// ID implements resource.Resource.
func (t Table) ID() resource.ID { return resource.ID{Kind: Kind, Name: "inet " + resource.NftTable} }

// After implements resource.Resource.
func (t Table) After() []resource.ID { return nil }

// DiesWith implements resource.Resource.
func (t Table) DiesWith() []resource.ID { return nil }

// Requires implements resource.Resource.
func (t Table) Requires() []features.Feature {
	return []features.Feature{features.NFTNat}
}

// Origin implements resource.Resource.
func (t Table) Origin() string { return t.From }
