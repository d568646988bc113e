package nft

import "plumb.internal/plumb/reconciler/resource"

// Restored implements resource.Restorer: of a damaged table what can be read.
func (t Table) Restored(*resource.Found) resource.Resource {
	t.Damage, t.Owner = "", ""
	return t
}
