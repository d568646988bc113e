package compiler

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpflink"
	"plumb.internal/plumb/reconciler/resource/bpfmap"
	"plumb.internal/plumb/reconciler/resource/bpfprog"
	"plumb.internal/plumb/reconciler/resource/endpoint"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/reconciler/resource/nft"
	svc "plumb.internal/plumb/reconciler/resource/service"
)

// buildDatapath makes the maps, programs and attachments of the node, and what is in the maps.
func (b *builder) buildDatapath(segments []*segment) {
	d := &b.datapath
	b.buildTable(segments)
	used := b.usedMaps()
	for _, base := range slices.Sorted(maps.Keys(used)) {
		b.put(bpfmap.Of(base, d.sizes.of(base), b.node.path))
	}
	b.programs = map[string]resource.ID{}
	if d.socket != "" {
		b.attachCgroup(used)
	}
	if d.packet != "" {
		b.attachDevices(used)
	}
	if b.sweeps() {
		b.program(objectSweep, objectSweep, nil, used, []features.Feature{features.Timers})
	}
	b.buildXDP(used)
	b.buildEndpoints(used)
	b.leadOut(used)
	if d.services() {
		b.buildServices(used)
	}
}

// buildTable makes the node's nftables table of all that it is for.
func (b *builder) buildTable(segments []*segment) {
	t := nft.Table{Masquerade: b.masqueraded(), From: b.datapath.masqueradeFrom}
	if b.tuned.bypassFrom != "" {
		t.Pods, t.Ends = b.bypassed()
		t.From = b.tuned.bypassFrom
	}
	if b.datapath.way == wayNftables {
		t.From = "services"
		b.tableOfServices(&t, segments)
	}
	if t.Masquerades() || t.Bypasses() || b.datapath.way == wayNftables {
		b.put(t)
	}
}

// tableOfServices adds the services.
func (b *builder) tableOfServices(t *nft.Table, segments []*segment) {
	for _, s := range segments {
		if s.dev != "" {
			t.Segments = append(t.Segments, s.dev)
		}
	}
	slices.Sort(t.Segments)
	for i := range b.frontends {
		t.Frontends = append(t.Frontends, b.frontends[i].Frontend)
	}
	slices.SortFunc(t.Frontends, func(x, y resource.Frontend) int { return strings.Compare(x.Name(), y.Name()) })
}

// usedMaps are the maps that the node's programs use, by base.
type usedMaps map[string]resource.ID

func (b *builder) usedMaps() usedMaps {
	d := &b.datapath
	used := usedMaps{}
	add := func(object, program string) {
		for _, base := range bpf.Uses(object, program) {
			used[base] = bpfmap.For(base, bpfmap.Version(base), d.sizes.of(base))
		}
	}
	if d.socket != "" {
		for _, h := range b.hooks() {
			add(d.socket, h)
		}
	}
	if d.packet != "" {
		for _, p := range b.node.pods {
			for _, program := range devicePrograms(p.child(), d.packet == objectPacket) {
				if strings.HasPrefix(program, "uplink_") {
					add(d.uplinkObject(), program)
				} else {
					add(d.packet, program)
				}
			}
		}
		for _, program := range d.uplinkPrograms() {
			add(d.uplinkObject(), program)
		}
		if b.sweeps() {
			add(objectSweep, objectSweep)
		}
	}
	if len(b.tuned.xdp) > 0 {
		add(objectXDP, programXDP)
	}
	return used
}

// program puts a program into the state, once, and returns its ID.
func (b *builder) program(object, base string, settings map[string]uint32, used usedMaps, needs []features.Feature) resource.ID {
	if id, ok := b.programs[base]; ok {
		return id
	}
	p := bpfprog.Of(object, base, settings, only(used, slices.Sorted(maps.Keys(used))...), b.node.path)
	p.Needs = needs
	b.put(p)
	b.programs[base] = p.ID()
	return p.ID()
}

// sweeps reports whether a timer of the kernel's forgets flows that are over.
func (b *builder) sweeps() bool {
	return (b.datapath.packet == objectPacket || b.datapath.onUplinks()) && b.set.Supports(features.Timers)
}

// hooks are those of the cgroup that the kernel has.
func (b *builder) hooks() []string {
	var names []string
	for _, h := range cgroupHooks {
		if !h.optional || b.set.Supports(h.needs) {
			names = append(names, h.name)
		}
	}
	return names
}

func (b *builder) attachCgroup(used usedMaps) {
	way := bpflink.Attach
	if b.set.Supports(features.LinkCgroup) {
		way = bpflink.Link
	}
	for _, name := range b.hooks() {
		b.put(bpflink.Attachment{
			Hook: name, Way: way, From: b.node.path,
			Program: b.program(b.datapath.socket, name, nil, used, nil),
		})
	}
}

// devicePrograms are those that a pod needs. On a pair they sit on the end that the pod can't get at; children of an uplink
// have no such end: there, services are translated inside the pod, and sources are checked on the uplink.
func devicePrograms(child, services bool) []string {
	switch {
	case child && services:
		return []string{"pod_egress", "pod_ingress", "uplink_egress", "uplink_ingress"}
	case child:
		return []string{"uplink_egress", "uplink_ingress"}
	case services:
		return []string{"from_pod", "to_pod"}
	}
	return []string{"from_pod"}
}

func (b *builder) attachDevices(used usedMaps) {
	d := &b.datapath
	settings := map[string]uint32{"source_check": 1, "redirect": 0}
	needs := []features.Feature{features.GlobalData}
	if d.redirect {
		settings["redirect"] = 1
		needs = append(needs, features.RedirectPeer)
	}
	if len(d.uplinks) > 0 {
		settings["host_routing"] = 1
		needs = append(needs, features.RedirectNeigh)
	}
	if d.packet == objectPacket {
		needs = append(needs, features.MapLRUHash)
	}
	if d.drain {
		settings["drain"] = 1
	}
	for _, w := range b.wirings {
		programs := devicePrograms(w.child(), d.packet == objectPacket)
		detour, ok := b.detours[w.name]
		if ok {
			programs = append(programs, "detour_ingress") // it uses no map that the others don't
		}
		for _, program := range programs {
			a := bpflink.Attachment{Link: w.link.ID(), From: w.path, Knows: []resource.ID{endpoint.For(w.name)}}
			switch program {
			case "from_pod":
				a.Dev, a.Hook = w.link.Peer.Name, bpflink.Ingress
				if d.packet == objectPacket {
					a.Knows = append(a.Knows, bpflink.For("", a.Dev, bpflink.Egress))
				}
			case "to_pod":
				a.Dev, a.Hook = w.link.Peer.Name, bpflink.Egress
			case "pod_egress":
				a.NetNS, a.Dev, a.Hook = w.name, w.link.Name, bpflink.Egress
				a.Knows = append(a.Knows, bpflink.For(w.name, a.Dev, bpflink.Ingress))
			case "pod_ingress":
				a.NetNS, a.Dev, a.Hook = w.name, w.link.Name, bpflink.Ingress
			case "uplink_egress", "uplink_ingress":
				continue // below, once for all pods of an uplink
			case "detour_ingress":
				a.Dev, a.Hook, a.Link = detour.Peer.Name, bpflink.Ingress, detour.ID()
			}
			a.Way = b.deviceHook(true)
			a.Program = b.program(d.packet, program, settings, used, needs)
			b.put(a)
		}
	}
	b.attachUplinks(settings, used, needs)
}

// buildEndpoints tells the programs of the node's pods, and the socket programs of the node itself.
func (b *builder) buildEndpoints(used usedMaps) {
	if _, ok := used["namespaces"]; ok {
		b.put(endpoint.Endpoint{Socket: true, Maps: only(used, "namespaces"), From: b.node.path})
	}
	in := only(used, "endpoints", "macs", "namespaces")
	if b.datapath.pace {
		in = only(used, "endpoints", "macs", "namespaces", "paces")
	}
	if len(in) == 0 {
		return
	}
	_, socket := used["namespaces"]
	for _, w := range b.wirings {
		e := endpoint.Endpoint{NetNS: w.name, Socket: socket, Maps: in, From: w.path}
		if _, ok := used["endpoints"]; !ok {
			b.put(e)
			continue
		}
		e.Attach, e.MAC, e.Dev = w.Attach, w.link.MAC, w.Uplink
		if !w.child() {
			e.Dev, e.HostMAC, e.Link = w.link.Peer.Name, w.link.Peer.MAC, w.link.ID()
		}
		if w.Attach == "bridge" {
			// Its gateway's: the port itself is nobody's neighbour.
			e.HostMAC = b.out.State[link.For("", bridgeName)].(link.Link).MAC
		}
		if w.limits.ingress != 0 {
			e.MTU = w.MTU
		}
		if b.datapath.pace {
			e.Rate = w.limits.egress
		}
		if detour, ok := b.detours[w.name]; ok {
			e.HostMAC = detour.Peer.MAC
		}
		for _, a := range w.addrs {
			e.Addresses = append(e.Addresses, a.Addr)
		}
		slices.SortFunc(e.Addresses, netip.Addr.Compare)
		b.put(e)
	}
}

func (b *builder) buildServices(used usedMaps) {
	// A service whose affinity ends has members to remove: it waits for the map too.
	plain := only(used, "frontends", "slots", "members")
	tables := map[int][]resource.ID{}
	for i := range b.frontends {
		f := &b.frontends[i]
		in := plain
		if f.TableSize > 0 {
			class := bpf.MaglevClass(f.TableSize)
			if tables[class] == nil {
				tables[class] = only(used, "frontends", "slots", "members", bpf.MaglevMap(class))
			}
			in = tables[class]
		}
		b.put(svc.Service{Frontend: f.Frontend, Maps: in, From: f.from})
	}
}

// only lists those of some maps that are used.
func only(used usedMaps, bases ...string) []resource.ID {
	var ids []resource.ID
	for _, base := range bases {
		if id, ok := used[base]; ok {
			ids = append(ids, id)
		}
	}
	return ids
}
