package route

import (
	"fmt"
	"net/netip"
	"strings"

	"plumb.internal/plumb/reconciler/resource"
)

// Conflicts implements reconciler.Conflicter. The kernel accepts two routes to one prefix silently, and the one with the
// lower metric or the longer prefix wins; so each foreign route that would win over a desired one is named here.
func (Ops) Conflicts(desired resource.State, foreign []Route) []resource.Conflict {
	type key struct {
		netns string
		table int
		dst   netip.Prefix
	}
	byKey := map[key][]Route{}
	var ranges []Route
	for _, id := range desired.Where(func(r resource.Resource) bool { _, ok := r.(Route); return ok }) {
		r := desired[id].(Route)
		k := key{r.NetNS, r.Table, r.Dst}
		byKey[k] = append(byKey[k], r)
		if r.PodPrefix {
			ranges = append(ranges, r)
		}
	}
	var conflicts []resource.Conflict
	for _, f := range foreign {
		if c, ok := sameKey(desired, byKey[key{f.NetNS, f.Table, f.Dst}], f); ok {
			conflicts = append(conflicts, c)
			continue
		}
		// Addresses make routes in the local table; kind addr speaks about them.
		if f.Dst.Bits() == 0 || (f.Type == "local" && f.Protocol == protoKernel) {
			continue
		}
		for _, r := range ranges {
			if f.NetNS != r.NetNS {
				continue
			}
			if what := f.meets(r); what != "" {
				conflicts = append(conflicts, f.conflict(desired, r.ID(), what))
				break
			}
		}
	}
	return conflicts
}

func sameKey(desired resource.State, wanted []Route, f Route) (resource.Conflict, bool) {
	for _, r := range wanted {
		if f.Metric <= r.Metric {
			return f.conflict(desired, r.ID(), "it wins over plumb's route to the same prefix"), true
		}
	}
	return resource.Conflict{}, false
}

// meets says how foreign route f is in the way of the pods of r's range, if it is.
func (f Route) meets(r Route) string {
	switch {
	case f.Connected && f.Dst.Overlaps(r.Dst):
		return fmt.Sprintf("the pod range %s overlaps a network that %s is on", r.Dst, f.Dev)
	case f.Dst.Bits() > r.Dst.Bits() && r.Dst.Overlaps(f.Dst):
		return fmt.Sprintf("it leads addresses of the pod range %s elsewhere", r.Dst)
	}
	return ""
}

func (f Route) conflict(desired resource.State, id resource.ID, what string) resource.Conflict {
	ip := desired.IPCommand(f.NetNS, f.Dst.Addr().Is6())
	fix := fmt.Sprintf("%s: take it away (%s route del %s), or change the pods' addresses", what, ip, f.key())
	if f.Connected {
		fix = what + ": choose another range (podCIDRs), or another network for the device"
	}
	return resource.Conflict{ID: id, Foreign: f.text(), Owner: resource.ProtocolOwner(f.Protocol), Fix: fix}
}

// key is what `ip route del` needs to find the route.
func (r Route) key() string {
	s := r.Dst.String()
	if r.Dst.Bits() == 0 {
		s = "default"
	}
	if r.Type != "" && r.Type != "unicast" {
		s = r.Type + " " + s
	}
	if r.Table != MainTable {
		s += " table " + resource.TableName(r.Table)
	}
	if r.Metric != 0 {
		s += fmt.Sprintf(" metric %d", r.Metric)
	}
	return s
}

// text is the route as `ip route` prints it.
func (r Route) text() string {
	var b strings.Builder
	word := func(format string, args ...any) { fmt.Fprintf(&b, " "+format, args...) }
	if t := r.kernelType(); t != "unicast" {
		word("%s", t)
	}
	switch {
	case r.Dst.Bits() == 0:
		word("default")
	case r.Dst.IsSingleIP():
		word("%s", r.Dst.Addr())
	default:
		word("%s", r.Dst)
	}
	if r.Gateway.IsValid() {
		word("via %s", r.Gateway)
	}
	if r.Dev != "" {
		word("dev %s", r.Dev)
	}
	if r.Table != MainTable {
		word("table %s", resource.TableName(r.Table))
	}
	if r.Protocol != 0 {
		word("proto %s", resource.ProtocolName(r.Protocol))
	}
	if r.Connected && r.Dst.Addr().Is4() {
		word("scope link")
	}
	if r.Src.IsValid() {
		word("src %s", r.Src)
	}
	if r.Metric != 0 {
		word("metric %d", r.Metric)
	}
	if r.OnLink {
		word("onlink")
	}
	if r.Trouble != "" {
		word("(%s)", r.Trouble)
	}
	return b.String()[1:]
}

// Numbers of rtnetlink.h that decide something here.
const (
	protoKernel = 2
	protoRA     = 9
)
