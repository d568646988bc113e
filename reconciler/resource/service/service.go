// Package service is the kind of services in eBPF maps: one frontend with its backends.
package service

import (
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
}

// For returns the ID of a frontend.
func For(f resource.Frontend) resource.ID { return resource.ID{Kind: Kind, Name: f.Name()} }

// ID implements resource.Resource.
func (s Service) ID() resource.ID { return For(s.Frontend) }

// After implements resource.Resource: its maps.
func (s Service) After() []resource.ID { return s.Maps }

// DiesWith implements resource.Resource.
func (s Service) DiesWith() []resource.ID { return nil }

// Requires implements resource.Resource.
func (s Service) Requires() []features.Feature { return nil }

// Origin implements resource.Resource.
func (s Service) Origin() string { return s.From }
