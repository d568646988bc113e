package neigh

import "plumb.internal/plumb/reconciler/resource"

// Restored implements resource.Restorer.
func (n Neigh) Restored(*resource.Found) resource.Resource {
	n.Protocol = 0
	return n
}
