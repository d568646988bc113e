package bpflink

import (
	"slices"

	"plumb.internal/plumb/reconciler/resource"
)

// Restored implements resource.Restorer. What didn't run doesn't come back. Where a program runs that has no pin, nobody can
// say which: whatever runs there now may go on.
func (a Attachment) Restored(found *resource.Found) resource.Resource {
	if a.Fault == detached || a.Fault == moved {
		return nil
	}
	a.Fault = ""
	answers := resource.ID{} // on which the program is that translates the answers to what this one translates
	switch {
	case a.Dev == "", a.Hook == XDP:
	case a.NetNS != "":
		a.Knows = []resource.ID{{Kind: "endpoint", NetNS: a.NetNS, Name: "pod"}}
		answers = For(a.NetNS, a.Dev, Ingress)
	default:
		a.Knows = found.On(a.Device(), "endpoint")
		// A pod may have a second pair, of which its endpoint knows the MAC alone.
		pod := resource.ID{Kind: "endpoint", NetNS: found.Link(a.Device()).NetNS, Name: "pod"}
		if _, ok := found.State[pod]; ok && !slices.Contains(a.Knows, pod) {
			a.Knows = append(a.Knows, pod)
		}
		answers = For("", a.Dev, Egress)
	}
	if _, ok := found.State[answers]; ok && answers != a.ID() {
		a.Knows = append(a.Knows, answers)
	}
	return a
}
