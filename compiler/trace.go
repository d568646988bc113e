package compiler

import (
	"slices"
	"strings"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpflink"
	"plumb.internal/plumb/reconciler/resource/bpfmap"
	"plumb.internal/plumb/reconciler/resource/bpfprog"
	"plumb.internal/plumb/reconciler/resource/exclusion"
	"plumb.internal/plumb/reconciler/resource/nft"
	"plumb.internal/plumb/reconciler/resource/nic"
	svc "plumb.internal/plumb/reconciler/resource/service"
	"plumb.internal/plumb/reconciler/resource/uplink"
)

// traceChoices notes for each choice which objects make it so: those of some kinds, or those that the same field asks for.
func (b *builder) traceChoices() {
	kinds, origins := map[resource.Kind][]resource.ID{}, map[string][]resource.ID{}
	asked := map[string]bool{}
	for _, path := range b.askedBy {
		asked[path] = true
	}
	var past []resource.ID // what works on packets on devices
	for id, r := range b.out.State {
		switch a, attached := r.(bpflink.Attachment); {
		case attached && a.Dev != "" && a.Hook != bpflink.XDP, id.Kind == bpfprog.Kind, id.Kind == uplink.Kind, id.Kind == exclusion.Kind:
			past = append(past, id)
		}
		switch id.Kind {
		case bpflink.Kind, bpfmap.Kind, bpfprog.Kind, svc.Kind, nft.Kind, nic.Kind:
			kinds[id.Kind] = append(kinds[id.Kind], id)
		}
		if from := r.Origin(); asked[from] {
			origins[from] = append(origins[from], id)
		}
	}
	links := map[string]resource.ID{}
	for _, w := range b.wirings {
		links[w.path+".attach"] = w.link.ID()
	}
	for i := range b.out.Choices {
		c := &b.out.Choices[i]
		switch id, attach := links[c.Subject]; {
		case attach:
			c.Makes = []resource.ID{id}
		case c.Subject == routingServices:
			c.Makes = slices.Concat(kinds[bpflink.Kind], kinds[svc.Kind], kinds[nft.Kind])
		case strings.HasSuffix(c.Subject, ".algorithm"):
			c.Makes = slices.Concat(kinds[svc.Kind], kinds[nft.Kind])
		case c.Subject == tuningMaps:
			c.Makes = kinds[bpfmap.Kind]
		case c.Subject == hostRouting && c.Chosen == "bpf", c.Subject == masquerading && c.Chosen == masqueradeBPF:
			c.Makes = past
		case c.Subject == hostRouting:
			c.Makes = kinds[bpfprog.Kind]
		case c.Subject == conntrackBypass && b.datapath.way != wayNftables:
			c.Makes = []resource.ID{nft.Table{}.ID()}
		case c.Subject == masquerading && c.Chosen == masqueradeNftables:
			c.Makes = []resource.ID{nft.Table{}.ID()}
		case c.Subject == tuningMTU, c.Subject == bigTCP && c.Chosen == "on",
			strings.HasPrefix(c.Subject, "tuning.host.rings."), strings.HasPrefix(c.Subject, "tuning.host.coalesce."):
			c.Makes = kinds[nic.Kind] // a device has one object, whatever it gets
		default:
			c.Makes = origins[b.askedBy[c.Subject]]
		}
	}
}
