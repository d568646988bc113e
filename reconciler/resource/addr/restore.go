package addr

import "plumb.internal/plumb/reconciler/resource"

// Restored implements resource.Restorer.
func (a Addr) Restored(*resource.Found) resource.Resource {
	a.Trouble, a.Protocol, a.Stray = "", 0, false
	return a
}
