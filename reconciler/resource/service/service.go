// Package service is the kind of services in eBPF maps: one frontend with its backends.
//
//	maglev.go           the lookup tables of Maglev
//	ids.go              the ids of services and backends
//	entries.go          a frontend as the entries of the maps, and back
//	diff.go             what differs, in words, and whom it hurts
//	order.go            in which order slots can be written
//	expected.go         what should be in the maps, to be compared with all that is
//	observe_linux.go    all services from a dump of the maps
//	view.go             what that found
//	read_linux.go       one service
//	service_linux.go    the operations, and single entries
//	change_linux.go     writing the entries that differ, in an order that no client notices
//	maps_linux.go       the open maps, and which elements of the arrays of Maglev tables are free
//	sweep_linux.go      what the data path remembers of backends that are gone
//	sockets_linux.go    UDP sockets that are connected to such
//
// Everything in the maps is a function of the configuration, but for three things: which element holds a Maglev table,
// where round-robin stands, and what the data path has learnt. Entries that are no service's, left by a plumb that was
// killed, are observed as resources of their own, which no configuration names, so that the next apply deletes them.
//
// An observed service carries its entries, so an update reads nothing and writes what differs. Where two maps of one name
// are pinned, one of another size is taking over: everything is written to both, and to the observed one last, so that
// a crash between the two is seen.
package service

import (
	"iter"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "service"

// Service is one frontend in the maps that socket and packet programs go by.
type Service struct {
	resource.Frontend
	Maps []resource.ID // that hold it
	From string

	// Broken says how the entries of an observed service fall short of being whole, "" where they don't.
	Broken string `json:",omitempty"`
	// Leftover names observed entries that are no service's.
	Leftover string `json:",omitempty"`
	// busy is set of an observed service whose packets are translated for somebody just now, when no service is wanted in
	// the maps any more.
	busy  bool
	held  *entries
	stale []pair
	junk  *junk
}

// pair is one backend of one service, by their ids; backend 0 is all of them.
type pair struct{ service, backend uint64 }

// For returns the ID of a frontend.
func For(f resource.Frontend) resource.ID { return resource.ID{Kind: Kind, Name: f.Name()} }

// ID implements resource.Resource.
func (s Service) ID() resource.ID {
	if s.Leftover != "" {
		return resource.ID{Kind: Kind, Name: s.Leftover}
	}
	return For(s.Frontend)
}

// After implements resource.Resource: its maps.
func (s Service) After() []resource.ID { return s.Maps }

// DiesWith implements resource.Resource.
func (s Service) DiesWith() []resource.ID { return nil }

// Carries implements resource.Carrier.
func (s Service) Carries() iter.Seq[resource.FrontendKey] {
	return func(yield func(resource.FrontendKey) bool) { yield(s.Key()) }
}

// Means implements resource.Means: leftovers are nobody's service.
func (s Service) Means() bool { return s.Leftover != "" }

// Requires implements resource.Resource.
func (s Service) Requires() []features.Feature { return nil }

// Origin implements resource.Resource.
func (s Service) Origin() string { return s.From }
