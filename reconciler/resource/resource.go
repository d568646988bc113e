// Package resource holds the words that the compiler and the reconciler share: IDs, resources, states, changes, plans.
// It is pure data. Each kind of kernel object has a folder below this one.
package resource

import (
	"iter"
	"net/netip"
	"strings"

	"plumb.internal/plumb/reconciler/features"
)

// Kind names a kind of kernel object: "link", "route".
type Kind string

// ID names one kernel object of a host. NetNS is the pod's name, or "" for the node's root namespace.
type ID struct {
	Kind  Kind   `json:"kind"`
	NetNS string `json:"netns"`
	Name  string `json:"name"`
}

// String is how people read an ID: "link web/eth0", "route 10.0.0.10/32" (root namespace).
func (id ID) String() string {
	if id.NetNS == "" {
		return string(id.Kind) + " " + id.Name
	}
	return string(id.Kind) + " " + id.NetNS + "/" + id.Name
}

// Compare orders IDs by namespace, kind and name.
func (id ID) Compare(o ID) int {
	if c := strings.Compare(id.NetNS, o.NetNS); c != 0 {
		return c
	}
	if c := strings.Compare(string(id.Kind), string(o.Kind)); c != 0 {
		return c
	}
	return strings.Compare(id.Name, o.Name)
}

// Resource is the desired or the observed state of one kernel object.
type Resource interface {
	ID() ID
	// After lists what must exist before this can be created. IDs that are in no state are somebody else's objects.
	After() []ID
	// DiesWith lists what takes this along when it goes: the kernel removes this object together with any of them.
	DiesWith() []ID
	// Requires lists what the kernel must offer.
	Requires() []features.Feature
	// Origin is the field of the configuration that asks for this ("pods.web.mtu"); empty when observed.
	Origin() string
}

// Disrupter is a resource whose changes can hurt traffic. Without it a change disrupts nothing.
type Disrupter interface {
	// Disruption says how disruptive it is to bring from (nil for a create) to this resource. For a delete it is
	// called on the observed resource with from equal to it.
	Disruption(action Action, from Resource) Disruption
}

// Claim is exclusive use of something that IDs don't show: resources may hold the same Key at the same time only with
// the same Value. The kernel refuses, or silently changes, the second otherwise (the mode of an ipvlan parent).
type Claim struct{ Key, Value string }

// Claimer is a resource that holds claims.
type Claimer interface{ Claims() []Claim }

// Describer is a resource that can print itself as `ip` prints it, on one line and without its kind and namespace:
// "10.0.0.10/32 dev eth0".
type Describer interface{ Describe() string }

// Describe returns r on one line, after its kind: "route default via 169.254.10.24 dev eth0".
func Describe(r Resource) string {
	if d, ok := r.(Describer); ok {
		return string(r.ID().Kind) + " " + d.Describe()
	}
	return string(r.ID().Kind) + " " + r.ID().Name
}

// Borrower is a resource that may stand for somebody else's object which plumb only uses (an adopted namespace). Letting
// go of a borrowed one takes nothing along: what plumb put into it has to be deleted piece by piece.
type Borrower interface{ Borrowed() bool }

// Device is a network device by name, in a pod's namespace or in the root one ("").
type Device struct{ NetNS, Name string }

// Maker is a resource that makes devices: a link makes one, a pair both its ends.
type Maker interface{ Devices() []Device }

// Sitter is a resource that sits on a device. The kernel tells the device of an observed one by name only; WithLink
// returns it with the resource that made the device, which takes it along when it goes.
type Sitter interface {
	Device() Device
	WithLink(id ID) Resource
}

// Founder is a resource that others on the same device rely on without naming it: without an address the kernel refuses
// routes over gateways, and with its last one a device loses its routes.
type Founder interface{ Founds() bool }

// Recorder is a resource of which plumb keeps a record in its run folder. It is deleted on its own, before what would take
// it along: a record outlives the kernel's object, and nobody would find it afterwards.
type Recorder interface{ Recorded() bool }

// Means is a resource that no file names: plumb uses it for what they do name, as it uses an eBPF map for services. That
// one goes says nothing about what the files name.
type Means interface{ Means() bool }

// Carrier is a resource that carries services. The files name their frontends, and there are several ways to carry them.
type Carrier interface{ Carries() iter.Seq[FrontendKey] }

// Pod names the pod that r belongs to: its own namespace, or the namespace of the object that it lives and dies with (the
// host's route to a pod). It is "" for what belongs to the node.
func Pod(r Resource) string {
	if pod := r.ID().pod(); pod != "" {
		return pod
	}
	for _, id := range r.DiesWith() {
		if pod := id.pod(); pod != "" {
			return pod
		}
	}
	return ""
}

// pod is the namespace that an ID names or is in. Every kind but netns has its namespace in the ID.
func (id ID) pod() string {
	if id.Kind == "netns" {
		return id.Name
	}
	return id.NetNS
}

// Heir is a resource that takes over what those of its kind hold that have the same key and go when it comes: a map of
// another size. It is made before they go, and before what is in them is taken away: that would come back with what it
// took over.
type Heir interface{ Inherits() (key string) }

// Reader is a resource that goes by what all resources of some kinds have written. Where another one was at work before, it
// takes that one's place when they are there.
type Reader interface{ Reads() []Kind }

// Switch is a resource that puts what all resources of some kinds do to work at once. It comes when each of these is as it is
// to be, and goes before any of them changes: whatever stops in between, either all of it is at work or nothing is.
type Switch interface{ Switches() []Kind }

// PodPrefixer is a resource that stands for a whole range of pod addresses: somebody else's addresses, routes and
// rules inside the range are in the way of pods.
type PodPrefixer interface {
	// PodRange returns the range, and whether there is one.
	PodRange() (netip.Prefix, bool)
}
