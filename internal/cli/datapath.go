package cli

import (
	"slices"
	"strings"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpflink"
	"plumb.internal/plumb/reconciler/resource/bpfprog"
	"plumb.internal/plumb/reconciler/resource/exclusion"
	"plumb.internal/plumb/reconciler/resource/nft"
	"plumb.internal/plumb/reconciler/resource/uplink"
)

// Ways that services go.
const (
	waySocket   = "socket"
	wayPacket   = "packet"
	wayNftables = "nftables"
	wayNone     = "none"
)

// How far a pod is kept from sending as somebody else.
const (
	checkEnforced = "enforced"
	checkLeaving  = "leaving only" // not towards its neighbours on the uplink
	checkOff      = "off"
)

// datapath is which programs are attached, as observed: nothing of it comes from the files.
type datapath struct {
	hooks    []string        // of the cgroup
	services map[string]bool // by way: socket, packet
	checks   map[string]bool // "DEV HOOK" of the root namespace where sources are checked
	on       map[string]bool // settings of the programs on devices
	straight bool            // they find uplinks to go to, and come from, past the stack
	table    *nft.Table      // that carries services
	bypass   *nft.Table      // that keeps connections from being tracked
	// masquerade is the one that gives pods the node's address.
	masquerade *nft.Table
	excluded   string // destinations that eBPF programs don't masquerade
}

// datapathOf finds out what the attached programs do: by the maps that they use, and by the settings that they were
// loaded with.
func datapathOf(owned resource.State) datapath {
	d := datapath{services: map[string]bool{}, checks: map[string]bool{}, on: map[string]bool{}}
	for _, id := range owned.IDs() {
		switch r := owned[id].(type) {
		case nft.Table:
			if r.Bypasses() {
				d.bypass = &r
			}
			if r.Masquerades() {
				d.masquerade = &r
			}
			if r.Serves() {
				d.table = &r
			}
		case uplink.Uplink:
			d.straight = true
		case exclusion.Exclusions:
			d.excluded = r.Describe()
		case bpflink.Attachment:
			p, ok := owned[r.Program].(bpfprog.Program)
			if !ok || r.Fault != "" {
				continue // nobody knows what runs, or it doesn't
			}
			serves := slices.ContainsFunc(p.Maps, func(m resource.ID) bool { return strings.HasPrefix(m.Name, "frontends.") })
			if r.Dev == "" {
				d.hooks = append(d.hooks, r.Hook)
				d.services[waySocket] = d.services[waySocket] || serves
				continue
			}
			for name, value := range p.Settings {
				d.on[name] = d.on[name] || value == 1
			}
			d.services[wayPacket] = d.services[wayPacket] || serves && p.Settings["drain"] == 0
			if r.NetNS == "" && p.Settings["source_check"] == 1 {
				d.checks[r.Dev+" "+r.Hook] = true
			}
		}
	}
	return d
}

// way is how services in eBPF maps go: "socket+packet", wayNone where no program is attached.
func (d datapath) way() string {
	var ways []string
	for _, w := range []string{waySocket, wayPacket} {
		if d.services[w] {
			ways = append(ways, w)
		}
	}
	if len(ways) == 0 {
		return wayNone
	}
	return strings.Join(ways, "+")
}

// sourceCheck says how far the programs on a device of the root namespace keep a pod from sending as somebody else.
func (d datapath) sourceCheck(attach, dev string) string {
	in, out := d.checks[dev+" "+bpflink.Ingress], d.checks[dev+" "+bpflink.Egress]
	switch attach {
	case "veth", "netkit", "bridge":
		if in {
			return checkEnforced
		}
	case "macvlan":
		if in && out { // the uplink's ingress sees what its children send each other
			return checkEnforced
		}
		if out {
			return checkLeaving
		}
	case "ipvlan-l2", "ipvlan-l3":
		if out {
			return checkLeaving
		}
	}
	return checkOff
}

// protocols says what the socket programs translate, from the hooks that they are on.
func (d datapath) protocols() (protocols, families []string) {
	protocols, families = []string{}, []string{}
	on := func(hooks ...string) bool {
		return slices.ContainsFunc(hooks, func(h string) bool { return slices.Contains(d.hooks, h) })
	}
	if on("connect4", "connect6") {
		protocols = append(protocols, "TCP")
	}
	if on("sendmsg4", "sendmsg6") {
		protocols = append(protocols, "UDP")
	}
	if on("connect4") {
		families = append(families, "IPv4")
	}
	if on("connect6") {
		families = append(families, "IPv6")
	}
	return protocols, families
}
