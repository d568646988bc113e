package link

import "plumb.internal/plumb/reconciler/resource"

// Restored implements resource.Restorer.
func (l Link) Restored(found *resource.Found) resource.Resource {
	l.Faults, l.Renamed, l.Owner, l.Node = "", false, "", ""
	if n, ok := found.State[resource.ID{Kind: "netns", Name: l.NetNS}].(resource.Borrower); ok {
		l.Adopted = n.Borrowed()
	}
	return l
}
