// Package qdisc is the kind of the queueing discipline that a device sends by: fq, which lets packets go at the times
// written on them, and tbf, which holds them back to a rate where there is no fq.
//
// The handle is the mark, set in the call that makes the qdisc. Handle 0 is the kernel's own choice: it is replaced, and
// comes back by itself when ours is deleted. Anything else is somebody's.
package qdisc

import (
	"fmt"
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "qdisc"

// The types.
const (
	FQ  = "fq"  // one for each queue of the device, under mq
	TBF = "tbf" // one rate for all
)

// Qdisc is the root queueing discipline of one device.
type Qdisc struct {
	NetNS string
	Dev   string
	Type  string
	// Rate is that of tbf, in bits per second.
	Rate uint64
	// Link is what makes the device; zero for somebody else's.
	Link resource.ID
	From string

	// What follows is observed only.

	// Faults is what isn't as plumb makes it: a queue without fq, or an fq that holds another number of packets.
	Faults string
	// Handle is that of somebody else's: "1:".
	Handle string
}

// ID implements resource.Resource.
func (q Qdisc) ID() resource.ID { return resource.ID{Kind: Kind, NetNS: q.NetNS, Name: q.Dev} }

// After implements resource.Resource.
func (q Qdisc) After() []resource.ID { return q.DiesWith() }

// DiesWith implements resource.Resource: the namespace and the device, where that is plumb's.
func (q Qdisc) DiesWith() []resource.ID {
	var ids []resource.ID
	if q.NetNS != "" {
		ids = append(ids, resource.ID{Kind: "netns", Name: q.NetNS})
	}
	if q.Link != (resource.ID{}) {
		ids = append(ids, q.Link)
	}
	return ids
}

// Requires implements resource.Resource.
func (q Qdisc) Requires() []features.Feature {
	switch q.Type {
	case FQ:
		return []features.Feature{features.QdiscFQ}
	case TBF:
		return []features.Feature{features.QdiscTBF}
	}
	return nil
}

// Origin implements resource.Resource.
func (q Qdisc) Origin() string { return q.From }

// Device implements resource.Sitter.
func (q Qdisc) Device() resource.Device { return resource.Device{NetNS: q.NetNS, Name: q.Dev} }

// WithLink implements resource.Sitter.
func (q Qdisc) WithLink(id resource.ID) resource.Resource {
	q.Link = id
	return q
}

// Restored implements resource.Restorer: all queues of a damaged one.
func (q Qdisc) Restored(*resource.Found) resource.Resource {
	q.Faults = ""
	return q
}

// Describe implements resource.Describer: "fq dev eth0 root", "tbf dev pl1 root rate 100Mbit".
func (q Qdisc) Describe() string {
	var b strings.Builder
	b.WriteString(q.Type)
	if q.Handle != "" {
		b.WriteString(" " + q.Handle)
	}
	fmt.Fprintf(&b, " dev %s root", q.Dev)
	if q.Rate != 0 {
		b.WriteString(" rate " + resource.RateText(q.Rate))
	}
	return b.String()
}

// Ops implements reconciler.Ops for queueing disciplines.
type Ops struct{}

// Diff lists what differs. The type can't be changed under one handle.
func (Ops) Diff(observed, desired Qdisc) (fields []resource.Field, inPlace bool) {
	add := func(name, before, after string) {
		fields = append(fields, resource.Field{Name: name, Before: before, After: after})
	}
	if observed.Type != desired.Type {
		add("type", observed.Type, desired.Type)
		return fields, false
	}
	if observed.Rate/8 != desired.Rate/8 { // the kernel counts bytes
		add("rate", resource.RateText(observed.Rate), resource.RateText(desired.Rate))
	}
	if observed.Faults != desired.Faults {
		add("faults", observed.Faults, desired.Faults)
	}
	return fields, true
}

// Conflicts implements reconciler.Conflicter: an administrator's qdisc is in the way of ours.
func (Ops) Conflicts(desired resource.State, foreign []Qdisc) []resource.Conflict {
	var conflicts []resource.Conflict
	for _, f := range foreign {
		r, wanted := desired[f.ID()]
		if !wanted {
			continue
		}
		fix := "take it away (tc qdisc del dev " + f.Dev + " root)"
		if f.NetNS != "" {
			fix = "take it away (tc -n " + f.NetNS + " qdisc del dev " + f.Dev + " root)"
		}
		if from := r.Origin(); from != "" {
			fix += ", or change " + from
		}
		conflicts = append(conflicts, resource.Conflict{ID: f.ID(), Foreign: "qdisc " + f.Describe(), Owner: "not marked as plumb's", Fix: fix})
	}
	return conflicts
}
