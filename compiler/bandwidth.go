package compiler

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/endpoint"
	"plumb.internal/plumb/reconciler/resource/qdisc"
)

const (
	// leastRate is the lowest limit, in bit/s: at less, one segment as large as TCP makes them takes longer than the programs
	// let packets wait.
	leastRate = 512_000
	// mostRate is the highest one.
	mostRate = 1_000_000_000_000
)

// limits are those of one pod, in bit/s; 0 for none.
type limits struct{ egress, ingress uint64 }

// limited is what the node's pods are limited by.
type limited struct {
	fq       bool   // on the uplinks
	fqFrom   string // the field that asks for it
	ownQueue bool   // each pod's own device holds back what it sends
}

// readLimits reads a pod's limits, once they are merged.
func (f *fleet) readLimits(p *pod) {
	for _, l := range []struct {
		text, name string
		from       layer
		to         *uint64
	}{
		{p.Bandwidth.Egress, "bandwidth.egress", p.egressFrom, &p.limits.egress},
		{p.Bandwidth.Ingress, "bandwidth.ingress", p.ingressFrom, &p.limits.ingress},
	} {
		if l.text == "" {
			continue
		}
		rate, err := parseRate(l.text)
		if err != nil {
			f.add(p.from(l.from, l.name), "", "limit of pod %s: %v", p.name, err)
			p.bad = true
		}
		*l.to = rate
	}
}

// parseRate reads bits per second, such as "1.5G".
func parseRate(text string) (uint64, error) {
	number, unit := text, 1.0
	if n := len(text) - 1; n > 0 {
		if u := map[byte]float64{'K': 1e3, 'M': 1e6, 'G': 1e9}[text[n]]; u != 0 {
			number, unit = text[:n], u
		}
	}
	rate, err := strconv.ParseFloat(number, 64)
	if rate *= unit; err != nil || rate < leastRate || rate > mostRate {
		return 0, fmt.Errorf("%s isn't from 512K to 1000G", text)
	}
	return uint64(rate), nil
}

// settleBandwidth decides how what pods send is limited. What they get waits at their pairs' ends in the root namespace.
func (b *builder) settleBandwidth() {
	var first *pod
	for _, p := range b.node.pods {
		if p.bad {
			continue
		}
		if p.limits.egress != 0 && first == nil {
			first = p
		}
		if p.limits.ingress != 0 && p.child() {
			b.add(p.from(p.ingressFrom, "bandwidth.ingress"), p.from(p.attachFrom, "attach"),
				"what pod %s gets can't be limited: it is %s, and the uplink hands it its packets past every queue; "+
					"use veth, netkit or bridge, or leave ingress out", p.name, p.Attach)
		}
	}
	wanted, path := b.wish(b.node.Tuning.BandwidthManager, b.cfg.Tuning.BandwidthManager, bandwidthManager)
	if first == nil && wanted != "on" {
		return // nothing to decide
	}
	if wanted == "" {
		path = first.from(first.egressFrom, "bandwidth.egress")
	}
	s := b.situation()
	s.left = !asks(wanted)
	switch b.choose(bandwidthManager, wanted, path, s) {
	case "on":
		b.limited.fq, b.limited.fqFrom = true, path
		b.datapath.pace = first != nil
		b.warnGone()
	case "off":
		b.limited.ownQueue = first != nil
	}
}

// fair asks for uplinks that fq can sit on. Who requires it where somebody else's qdisc sits learns when it is applied how to
// take that away.
func fair(s *situation) string {
	if len(s.node.Uplinks) == 0 {
		return "the node names no uplink"
	}
	there, gone := s.uplinks()
	if len(there) == 0 {
		return "this machine has no device " + strings.Join(gone, ", ")
	}
	for _, dev := range there {
		if h := s.set.Host; s.left && h != nil && h.Devices[dev].Qdisc != "" {
			return fmt.Sprintf("uplink %s sends by qdisc %s, which somebody else configured", dev, h.Devices[dev].Qdisc)
		}
	}
	return ""
}

// buildBandwidth makes the queues.
func (b *builder) buildBandwidth() {
	if b.limited.fq {
		there, _ := b.situation().uplinks()
		for _, dev := range there {
			b.put(qdisc.Qdisc{Dev: dev, Type: qdisc.FQ, From: b.limited.fqFrom})
		}
	}
	for _, w := range b.wirings {
		if rate := w.limits.egress; rate != 0 && b.limited.ownQueue {
			b.put(qdisc.Qdisc{NetNS: w.name, Dev: w.link.Name, Type: qdisc.TBF, Rate: rate, Link: w.link.ID(),
				From: w.from(w.egressFrom, "bandwidth.egress")})
		}
		if rate := w.limits.ingress; rate != 0 {
			b.put(qdisc.Qdisc{Dev: w.link.Peer.Name, Type: qdisc.TBF, Rate: rate, Link: w.link.ID(),
				From: w.from(w.ingressFrom, "bandwidth.ingress")})
		}
	}
}

// pacedPods are the pods that the programs of uplinks have to know the rates of.
func (b *builder) pacedPods() (ids []resource.ID) {
	for _, w := range b.wirings {
		if b.datapath.pace && w.limits.egress != 0 {
			ids = append(ids, endpoint.For(w.name))
		}
	}
	return ids
}

// timesLive says whether the times that pods' sockets give their packets get to the uplinks.
func timesLive(s *situation) string {
	if !s.set.Supports(features.SkbSetTstamp) {
		return "; what a pod's sockets ask for is lost on the way there, so they keep timers of their own: " + lacks(s.set, features.SkbSetTstamp)
	}
	return ""
}

// union lists IDs of both, each of them once.
func union(x, y []resource.ID) []resource.ID {
	all := slices.Concat(x, y)
	slices.SortFunc(all, resource.ID.Compare)
	return slices.Compact(all)
}
