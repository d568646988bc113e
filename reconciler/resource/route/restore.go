package route

import "plumb.internal/plumb/reconciler/resource"

// Restored implements resource.Restorer: of several next hops the first, and nothing of a type that plumb doesn't make.
func (r Route) Restored(*resource.Found) resource.Resource {
	if r.Type != "" || !r.Unreachable && r.Dev == "" {
		return nil
	}
	r.Trouble, r.Protocol, r.Connected = "", 0, false
	return r
}
