package compiler

import (
	"net/netip"
	"slices"
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource/bpflink"
	"plumb.internal/plumb/reconciler/resource/link"
)

// Objects of package bpf, and their programs.
const (
	objectSocket    = "socket"
	objectSocketAll = "socket_all" // acts for every process of the cgroup
	objectPacket    = "packet"
	objectForward   = "forward" // packet without services
	objectSweep     = "sweep"   // forgets flows that are over; it has one program, of its own name
)

// The ways to carry services, as routing.services names them.
const (
	waySocket   = "socket"
	wayPacket   = "packet"
	wayNftables = "nftables"
	wayBoth     = waySocket + "+" + wayPacket
)

// cgroupHooks are the socket programs; each sits on the hook of its name.
var cgroupHooks = []struct {
	name  string
	needs features.Feature
	// optional hooks only make the others better.
	optional bool
}{
	{"connect4", features.CgroupConnect4, false},
	{"connect6", features.CgroupConnect6, false},
	{"sendmsg4", features.CgroupSendmsg4, false},
	{"sendmsg6", features.CgroupSendmsg6, false},
	{"recvmsg4", features.CgroupRecvmsg4, false},
	{"recvmsg6", features.CgroupRecvmsg6, false},
	{"getpeername4", features.CgroupGetpeername4, true},
	{"getpeername6", features.CgroupGetpeername6, true},
	{"sock_release", features.CgroupSockRelease, true}, // without it, what sockets leave goes when others need the room
}

// datapath is which eBPF programs a node has, and what they use.
type datapath struct {
	way      string   // of services; "" without any
	socket   string   // the object on the cgroup; "" for none
	packet   string   // the object on devices; "" for none
	redirect bool     // packets go straight to pods of this node
	uplinks  []string // that packets of pods go to straight, and come from
	drain    bool     // the packet programs only translate flows that there are
	pace     bool     // packets that leave the node get departure times, where their pods have a limit
	sizes    mapSizes

	masquerade, masqueradeFrom string         // how, and the field that says so; "" where none does
	masqueradeDrain            bool           // the uplinks' programs only translate flows that there are
	excluded                   []netip.Prefix // what the files list
}

// services reports whether there are services in eBPF maps.
func (d *datapath) services() bool { return d.socket != "" || d.packet == objectPacket }

// wiring is a pod's device, as far as the data path has to know it.
type wiring struct {
	*pod
	link link.Link
}

// chooseWay decides how the node carries services. It is "" where there are none, or where none of the ways can be had.
func (b *builder) chooseWay() string {
	wanted, path := b.wish(b.node.Routing.Services, b.cfg.Routing.Services, routingServices)
	if len(b.services) > 0 {
		if !asks(wanted) {
			path = b.services[0].path
		}
		return b.choose(routingServices, wanted, path, b.situation())
	}
	if asks(wanted) { // a requirement, though nothing needs it yet
		if why := settingOf(routingServices).refuse(wanted, b.situation()); why != "" {
			b.refused(settingOf(routingServices), wanted, path, why)
		}
	}
	return ""
}

// settleDatapath decides which programs the node has, and checks that its maps are large enough.
func (b *builder) settleDatapath() {
	d := &b.datapath
	d.way = b.chooseWay()
	switch d.way {
	case waySocket, wayBoth:
		d.socket = objectSocket
		if !b.set.Supports(features.NetNSCookie) {
			d.socket = objectSocketAll
		}
	case wayPacket:
		b.warn("the node's own processes don't reach services: packets are translated on the links of pods, and theirs take none of those")
	case wayNftables:
		b.checkMaglev()
		b.checkIPvlan()
	}
	b.settleMasquerade()
	if len(b.node.pods) > 0 {
		b.settleDevices()
	}
	b.settleBandwidth()
	if d.socket == "" && d.packet == "" {
		return
	}
	d.sizes = b.sizeMaps()
	used := b.usedMaps()
	b.checkSizes(d.sizes, used)
	b.settleMapSizes(used)
}

// settleDevices decides on the programs on devices: services per packet, the check of source addresses, and the short way
// between pods of the node.
func (b *builder) settleDevices() {
	d := &b.datapath
	straight := b.settleHostRouting()
	if why := needs(b.set, []features.Feature{features.GlobalData}, deviceHooks); why != "" {
		b.warn("pods can send from any address, and what they send each other goes through the node's stack: %s", why)
		return
	}
	d.packet = objectForward
	switch {
	case d.way == wayPacket || d.way == wayBoth:
		d.packet = objectPacket
	case d.way == waySocket && settingOf(routingServices).option(wayPacket).obstacle(b.situation()) == "":
		// Clients that came when packets were translated keep their connections.
		d.packet, d.drain = objectPacket, true
	}
	d.redirect = straight
	if straight && slices.ContainsFunc(b.node.pods, func(p *pod) bool { return !p.child() }) {
		d.uplinks, _ = b.situation().uplinks()
	}
}

// deviceHook says how programs are attached to a device. On one that others use too, tcx lets their programs stand beside
// ours. But each time that it takes one up, or lets one go, it waits for all processors while it holds the lock of all
// network settings: 8 to 20 ms on kernel 6.18, where clsact takes 0.2 ms. On a thousand devices of plumb's own that counts.
func (b *builder) deviceHook(ours bool) string {
	if b.set.Supports(features.TCX) && (!ours || !b.set.Supports(features.Clsact)) {
		return bpflink.TCX
	}
	return bpflink.Clsact
}

// settleHostRouting decides whether packets of pods go past the node's stack. Where none of them could, nobody is told.
func (b *builder) settleHostRouting() bool {
	wanted, path := b.wish(b.node.Routing.HostRouting, b.cfg.Routing.HostRouting, hostRouting)
	s := b.situation()
	s.left = !asks(wanted)
	if s.left && !slices.ContainsFunc(b.node.pods, func(p *pod) bool { return !p.child() }) {
		return settingOf(hostRouting).option("bpf").obstacle(s) == ""
	}
	return b.choose(hostRouting, wanted, path, s) == "bpf"
}

// checkMaglev finds services whose algorithm the way can't do.
func (b *builder) checkMaglev() {
	here := b.situation()
	for _, s := range b.services {
		if o := settingOf(algorithm).option(s.algorithm()); o.obstacle(here) != "" {
			b.add(s.path+".algorithm", "", "%s, and node %s carries services by nftables", o.obstacle(here), b.node.name)
		}
	}
}

// checkIPvlan finds pods whose answers nftables would never see: ipvlan hands packets from one child of an uplink to another
// by itself, and what was translated on its way there has to be translated back.
func (b *builder) checkIPvlan() {
	for _, p := range b.node.pods {
		if strings.HasPrefix(p.Attach, "ipvlan") {
			b.add(p.from(p.attachFrom, "attach"), "", "pod %s has attach %q, which passes nftables by, and node %s carries services by nftables; use another attachment or way", p.name, p.Attach, b.node.name)
		}
	}
}
