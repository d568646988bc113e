// Package bpflink is the kind of attachments of eBPF programs: to a device (tcx, or clsact where there is none; XDP) and to
// the node's cgroup.
//
// Every attachment has a file below the node's folder of the BPF file system: the link itself where the kernel has links,
// else a symbolic link that says how it is attached. What has no file there isn't ours; a program of ours on a hook of ours
// that is there a second time is taken away. Programs are replaced in place, never detached first. Ours come last on their
// hook: somebody else's see the packet before it may leave the stack. XDP takes one program a device, so that somebody else's
// is a conflict.
package bpflink

import (
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "bpflink"

// Hooks of devices. Those of the cgroup have the names of their attach types: "connect4", "sock_release".
const (
	Ingress = "ingress"
	Egress  = "egress"
	XDP     = "xdp" // before the stack
)

// Ways to attach.
const (
	TCX     = "tcx"     // a link, kept by its pin
	Clsact  = "clsact"  // a filter of the device's clsact qdisc
	Link    = "link"    // of the cgroup or of XDP, kept by its pin
	Attach  = "attach"  // to the cgroup, without a link
	Netlink = "netlink" // XDP without a link
)

// Modes of XDP.
const (
	Native  = "native"  // the driver runs the program
	Generic = "generic" // the stack does, for any driver
)

// Attachment is one program on one hook.
type Attachment struct {
	NetNS string // of the device: a pod, or "" for the root namespace
	Dev   string // "" for the node's cgroup
	Hook  string
	Way   string
	Mode  string // of XDP
	// Hardware says that the driver may take the link down to bring a program of XDP in, or out.
	Hardware bool
	// Program is zero where an observed one isn't a pinned program, and in a recorded state where any will do.
	Program resource.ID
	// Link is the resource that makes the device; zero for somebody else's (an uplink) and the cgroup.
	Link resource.ID
	// Knows is what has to be there before the program sees packets: the pods that it must have been told of, since it drops
	// what strangers send, and the program that translates the answers.
	Knows []resource.ID
	From  string

	// Fault is how an observed attachment doesn't work as it should, such as "detached"; "" otherwise.
	Fault string
	// Foreign describes somebody else's program that has the hook for itself.
	Foreign string
}

// What can be wrong with an attachment.
const (
	detached = "detached"          // its device or cgroup is gone, or somebody took it away
	moved    = "on another device" // or on another cgroup
	twice    = "attached twice"    // by plumb, of which one has no file
)

// For returns the ID of an attachment: "pl-web ingress", "cgroup connect4".
func For(netns, dev, hook string) resource.ID {
	if dev == "" {
		dev = "cgroup"
	}
	return resource.ID{Kind: Kind, NetNS: netns, Name: dev + " " + hook}
}

// ID implements resource.Resource.
func (a Attachment) ID() resource.ID { return For(a.NetNS, a.Dev, a.Hook) }

// After implements resource.Resource: the program, the device, and what the program has to know. What leads sockets to
// backends comes after what tells them who answers, and goes before it: no answer comes from a stranger.
func (a Attachment) After() []resource.ID {
	ids := append(a.DiesWith(), a.Knows...)
	if a.Dev == "" && (strings.HasPrefix(a.Hook, "connect") || strings.HasPrefix(a.Hook, "sendmsg")) {
		ids = append(ids, For("", "", "recvmsg4"), For("", "", "recvmsg6")) // a dual-stack socket may need either
	}
	if a.Program != (resource.ID{}) {
		ids = append(ids, a.Program)
	}
	return ids
}

// Reads implements resource.Reader.
func (a Attachment) Reads() []resource.Kind { return []resource.Kind{"endpoint", "service"} }

// DiesWith implements resource.Resource: the device takes the attachment along, and leaves the file.
func (a Attachment) DiesWith() []resource.ID {
	if a.Link == (resource.ID{}) {
		return nil
	}
	return []resource.ID{a.Link}
}

// Recorded implements resource.Recorder: the file outlives the device.
func (a Attachment) Recorded() bool { return true }

// Means implements resource.Means.
func (a Attachment) Means() bool { return true }

// Device implements resource.Sitter.
func (a Attachment) Device() resource.Device { return resource.Device{NetNS: a.NetNS, Name: a.Dev} }

// WithLink implements resource.Sitter.
func (a Attachment) WithLink(id resource.ID) resource.Resource {
	a.Link = id
	return a
}

// Requires implements resource.Resource.
func (a Attachment) Requires() []features.Feature {
	switch a.Way {
	case TCX:
		return []features.Feature{features.TCX}
	case Clsact:
		return []features.Feature{features.Clsact}
	case Link:
		if a.Hook == XDP {
			return []features.Feature{features.LinkXDP}
		}
		return []features.Feature{features.Cgroup2, features.LinkCgroup}
	case Netlink:
		return nil // whoever asks for a mode has asked whether it can be had
	}
	return []features.Feature{features.Cgroup2}
}

// Disruption implements resource.Disrupter: hardware may lose its link where its driver gets a program to run, or loses it.
// Another program in the place of one hurts nobody.
func (a Attachment) Disruption(action resource.Action, from resource.Resource) resource.Disruption {
	before, _ := from.(Attachment)
	native := a.Mode == Native || before.Mode == Native
	if native && (a.Hardware || before.Hardware) && (action != resource.Update || before.Fault != "") {
		return resource.DisruptsLink
	}
	return resource.DisruptsNothing
}

// Origin implements resource.Resource.
func (a Attachment) Origin() string { return a.From }

// Describe implements resource.Describer: "pl-web ingress, from_pod.0123456789ab by tcx".
func (a Attachment) Describe() string {
	text := a.ID().Name + ", " + a.Program.Name + " by " + a.Way
	if a.Mode != "" {
		text += ", " + a.Mode
	}
	return text
}

// Ops implements reconciler.Ops for attachments.
type Ops struct{}

// Diff lists what differs between an observed and a desired attachment of one ID. The way can't be changed in place: for a
// moment the program would run twice. Nor can XDP's mode: the kernel takes no second one beside the first.
func (Ops) Diff(observed, desired Attachment) (fields []resource.Field, inPlace bool) {
	field := func(name, before, after string) {
		if before != after {
			fields = append(fields, resource.Field{Name: name, Before: before, After: after})
		}
	}
	if desired.Program != (resource.ID{}) {
		field("program", observed.Program.Name, desired.Program.Name)
	}
	field("way", observed.Way, desired.Way)
	sameMode := observed.Mode == "" || observed.Mode == desired.Mode // what isn't attached has none
	if !sameMode {
		field("mode", observed.Mode, desired.Mode)
	}
	if observed.Fault != desired.Fault {
		field("state", observed.Fault, "attached")
	}
	return fields, observed.Way == desired.Way && sameMode
}

// Conflicts implements reconciler.Conflicter: a cgroup whose program wants to be alone takes no other, and XDP none.
func (Ops) Conflicts(desired resource.State, foreign []Attachment) []resource.Conflict {
	var conflicts []resource.Conflict
	for _, f := range foreign {
		if _, ok := desired[f.ID()]; !ok {
			continue
		}
		if f.Hook == XDP {
			conflicts = append(conflicts, resource.Conflict{ID: f.ID(), Foreign: f.Foreign + ", which has the XDP hook of " + f.Dev,
				Owner: resource.Unmarked, Fix: "set tuning.xdp to off, or take it away: ip link set dev " + f.Dev + " xdp off"})
		} else {
			conflicts = append(conflicts, resource.Conflict{ID: f.ID(), Foreign: "the program on hook " + f.Hook + " of the node's cgroup",
				Owner: resource.Unmarked + ", and attached so that it allows no other", Fix: alone})
		}
	}
	return conflicts
}

const alone = "have its owner attach it so that others may be beside it (BPF_F_ALLOW_MULTI), or give plumb another cgroup by --cgroup"
