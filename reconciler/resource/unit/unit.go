// Package unit is the kind of the machine's services, as its service manager knows them: whether one runs. No mark is
// possible on that: whether it ran before the first change is recorded in the run folder and comes back on delete.
package unit

import (
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "unit"

// IRQBalance is the service that moves interrupts between processors.
const IRQBalance = "irqbalance.service"

// Unit is one service.
type Unit struct {
	Name   string
	Active bool
	From   string
}

// ID implements resource.Resource.
func (u Unit) ID() resource.ID { return resource.ID{Kind: Kind, Name: u.Name} }

// After implements resource.Resource.
func (u Unit) After() []resource.ID { return nil }

// DiesWith implements resource.Resource.
func (u Unit) DiesWith() []resource.ID { return nil }

// Requires implements resource.Resource.
func (u Unit) Requires() []features.Feature { return nil }

// Origin implements resource.Resource.
func (u Unit) Origin() string { return u.From }

// Describe implements resource.Describer: "irqbalance.service stopped".
func (u Unit) Describe() string { return u.Name + " " + word(u.Active) }

// Recorded implements resource.Recorder: whether it ran before is on record.
func (u Unit) Recorded() bool { return true }

func word(active bool) string {
	if active {
		return "running"
	}
	return "stopped"
}

// Ops implements reconciler.Ops for services. Connect reaches the machine's service manager; nil is systemd.
type Ops struct{ Connect func() (Manager, error) }

// Diff lists what differs.
func (Ops) Diff(observed, desired Unit) (fields []resource.Field, inPlace bool) {
	if observed.Active != desired.Active {
		fields = append(fields, resource.Field{Name: "state", Before: word(observed.Active), After: word(desired.Active)})
	}
	return fields, true
}
