package netns

import "plumb.internal/plumb/reconciler/resource"

// Restored implements resource.Restorer: a name that only a record reserves was no namespace.
func (n NetNS) Restored(*resource.Found) resource.Resource {
	if n.Faults == halfMade {
		return nil
	}
	n.Faults, n.Owner = "", ""
	return n
}
