// Package bpflink is the kind of attachments of eBPF programs: to a device (tcx, or clsact where there is none) and to the
// node's cgroup.
package bpflink

import (
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "bpflink"

// Hooks of devices. Those of the cgroup have the names of their attach types: "connect4", "sock_release".
const (
	Ingress = "ingress"
	Egress  = "egress"
)

// Ways to attach.
const (
	TCX    = "tcx"    // a link, kept by its pin
	Clsact = "clsact" // a filter of the device's clsact qdisc
	Link   = "link"   // of the cgroup, kept by its pin
	Attach = "attach" // to the cgroup, without a link
)

// Attachment is one program on one hook.
type Attachment struct {
	NetNS   string // of the device: a pod, or "" for the root namespace
	Dev     string // "" for the node's cgroup
	Hook    string
	Way     string
	Program resource.ID
	// Link is the resource that makes the device; zero for somebody else's (an uplink) and the cgroup.
	Link resource.ID
	From string
}

// For returns the ID of an attachment: "pl-web ingress", "cgroup connect4".
func For(netns, dev, hook string) resource.ID {
	if dev == "" {
		dev = "cgroup"
	}
	return resource.ID{Kind: Kind, NetNS: netns, Name: dev + " " + hook}
}

// ID implements resource.Resource.
func (a Attachment) ID() resource.ID { return For(a.NetNS, a.Dev, a.Hook) }

// After implements resource.Resource: the program and the device.
func (a Attachment) After() []resource.ID {
	ids := []resource.ID{a.Program}
	if a.Link != (resource.ID{}) {
		ids = append(ids, a.Link)
	}
	return ids
}

// Requires implements resource.Resource.
func (a Attachment) Requires() []features.Feature { return nil }

// Origin implements resource.Resource.
func (a Attachment) Origin() string { return a.From }
