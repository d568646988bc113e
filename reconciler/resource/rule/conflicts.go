package rule

import (
	"fmt"
	"net/netip"
	"strings"

	"plumb.internal/plumb/reconciler/resource"
)

const (
	mainTable    = 254
	mainPriority = 32766 // of the kernel's rule that looks up the main table
)

// Conflicts implements reconciler.Conflicter. A rule that comes first decides first: one that speaks about the packets
// of pods and stands before plumb's (in the root namespace: before the main table) takes them away.
func (Ops) Conflicts(desired resource.State, foreign []Rule) []resource.Conflict {
	type claim struct {
		id     resource.ID
		netns  string
		prefix netip.Prefix
		before int  // rules up to this priority come first
		pods   bool // prefix is a range of pods that the namespace has routes to
	}
	var claims []claim
	for _, id := range desired.Where(speaks) {
		switch r := desired[id].(type) {
		case Rule:
			claims = append(claims, claim{id, r.NetNS, r.Src, r.Priority, false})
		case resource.PodPrefixer:
			if p, ok := r.PodRange(); ok {
				claims = append(claims, claim{id, id.NetNS, p, mainPriority, true})
			}
		}
	}
	var conflicts []resource.Conflict
	for _, f := range foreign {
		for _, c := range claims {
			// A rule without a source is about everything: too common (VPNs, VRFs) to refuse, it is warned of. One that leads
			// what goes to pods past the routes to them is in the way.
			switch {
			case f.NetNS != c.netns || f.Priority > c.before:
				continue
			case f.Src.IsValid() && f.Src.Bits() > 0 && f.Src.Overlaps(c.prefix):
				conflicts = append(conflicts, f.conflict(desired, c.id, "from", "sources", c.prefix))
			case c.pods && f.Table != mainTable && f.Dst.IsValid() && f.Dst.Bits() > 0 && f.Dst.Overlaps(c.prefix):
				conflicts = append(conflicts, f.conflict(desired, c.id, "to", "destinations", c.prefix))
			default:
				continue
			}
			break
		}
	}
	return conflicts
}

// conflict says that r decides about packets from or to p; which is what to change of it.
func (r Rule) conflict(desired resource.State, id resource.ID, way, which string, p netip.Prefix) resource.Conflict {
	return resource.Conflict{
		ID:      id,
		Foreign: "rule " + r.text(),
		Owner:   resource.ProtocolOwner(r.Protocol),
		Fix: fmt.Sprintf("it decides about packets %s %s before plumb's routes do: take it away (%s rule del priority %d), or give it other %s",
			way, p, desired.IPCommand(r.NetNS, p.Addr().Is6()), r.Priority, which),
	}
}

// text is the rule as `ip rule` prints it.
func (r Rule) text() string {
	from := "all"
	if r.Src.IsValid() && r.Src.Bits() > 0 {
		from = strings.TrimSuffix(r.Src.String(), fmt.Sprintf("/%d", r.Src.Addr().BitLen()))
	}
	s := fmt.Sprintf("%d: from %s", r.Priority, from)
	if r.Rest != "" {
		s += " " + r.Rest
	}
	if r.Table == 0 {
		return s
	}
	return s + " lookup " + resource.TableName(r.Table)
}

// speaks reports whether Conflicts goes by r.
func speaks(r resource.Resource) bool {
	switch r.(type) {
	case Rule, resource.PodPrefixer:
		return true
	}
	return false
}
