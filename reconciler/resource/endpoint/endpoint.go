// Package endpoint is the kind of the data path's knowledge of pods: addresses, devices, MACs, and the cookies of their
// network namespaces.
package endpoint

import (
	"net/netip"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "endpoint"

// Endpoint is one pod in the data path's maps. That of the root namespace ("") has no addresses: it makes the socket programs
// act for the node's own processes.
//
// No cookie and no ifindex is in it: they are found out when entries are written, and observed entries are named as they
// would be if they were right, so that a namespace or a device that was made anew shows.
type Endpoint struct {
	NetNS     string
	Addresses []netip.Addr // ordered
	// Dev is the device in the root namespace that stands for the pod: its pair's end, or the uplink of macvlan and ipvlan.
	Dev     string
	Attach  string        // as in the configuration: "veth"
	MAC     string        // the pod's; "" where it has none of its own (ipvlan)
	HostMAC string        // of the pair's end in the root namespace, or ""
	Socket  bool          // the socket programs act for its namespace
	Rate    uint64        // bit/s that it sends at most, by the programs of uplinks; 0: there is no limit
	MTU     int           // of its device, where a queue of the pair's end in the root namespace limits what it gets; else 0
	Link    resource.ID   // the resource that makes the device; zero for somebody else's
	Maps    []resource.ID // that hold it
	From    string

	// Held is what the maps hold, by the entry's name; observed only. See entries.
	Held map[string]string
	// Stale marks the entries that belong to no pod: those of namespaces that are gone, or that no pod's addresses lead to.
	Stale bool
}

// For returns the ID of a pod's endpoint.
func For(pod string) resource.ID { return resource.ID{Kind: Kind, NetNS: pod, Name: "pod"} }

// ID implements resource.Resource.
func (e Endpoint) ID() resource.ID {
	switch {
	case e.Stale:
		return resource.ID{Kind: Kind, Name: "stale"}
	case e.NetNS == "":
		return resource.ID{Kind: Kind, Name: "node"}
	}
	return For(e.NetNS)
}

// After implements resource.Resource: its maps, its namespace and its device.
func (e Endpoint) After() []resource.ID {
	ids := append([]resource.ID(nil), e.Maps...)
	if e.NetNS != "" {
		ids = append(ids, resource.ID{Kind: "netns", Name: e.NetNS})
	}
	if e.Link != (resource.ID{}) {
		ids = append(ids, e.Link)
	}
	return ids
}

// DiesWith implements resource.Resource: map entries outlive what they tell of.
func (e Endpoint) DiesWith() []resource.ID { return nil }

// Means implements resource.Means.
func (e Endpoint) Means() bool { return true }

// Requires implements resource.Resource.
func (e Endpoint) Requires() []features.Feature { return nil }

// Origin implements resource.Resource.
func (e Endpoint) Origin() string { return e.From }
