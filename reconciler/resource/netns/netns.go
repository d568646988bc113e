// Package netns is the kind of network namespaces: one per pod, named /run/netns/NAME, or an adopted one.
package netns

import (
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "netns"

// NetNS is one pod's network namespace.
type NetNS struct {
	Name string
	// Path is set for an adopted namespace (/proc/4242/ns/net): never created, never deleted.
	Path string
	From string // the field that asks for it

	// Faults is what an observation found that is not as plumb makes it, such as "lo is down"; "" in desired state.
	Faults string
	// Owner is whose a foreign namespace is, in words; "" otherwise.
	Owner string
}

// For returns the ID of the namespace of a pod.
func For(pod string) resource.ID { return resource.ID{Kind: Kind, Name: pod} }

// ID implements resource.Resource.
func (n NetNS) ID() resource.ID { return For(n.Name) }

// After implements resource.Resource.
func (n NetNS) After() []resource.ID { return nil }

// DiesWith implements resource.Resource.
func (n NetNS) DiesWith() []resource.ID { return nil }

// Requires implements resource.Resource.
func (n NetNS) Requires() []features.Feature { return []features.Feature{features.NetNS} }

// Adopts implements resource.Adopter.
func (n NetNS) Adopts() string { return n.Path }

// Origin implements resource.Resource.
func (n NetNS) Origin() string { return n.From }

// Disruption implements resource.Disrupter.
func (n NetNS) Disruption(action resource.Action, _ resource.Resource) resource.Disruption {
	if action == resource.Replace || action == resource.Delete {
		return resource.DisruptsPod
	}
	return resource.DisruptsNothing
}
