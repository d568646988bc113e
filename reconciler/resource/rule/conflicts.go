package rule

import (
	"fmt"
	"net/netip"
	"strings"

	"plumb.internal/plumb/reconciler/resource"
)

const mainPriority = 32766 // of the kernel's rule that looks up the main table

// Conflicts implements reconciler.Conflicter. A rule that comes first decides first: one that speaks about the packets
// of pods and stands before plumb's (in the root namespace: before the main table) takes them away.
func (Ops) Conflicts(desired resource.State, foreign []Rule) []resource.Conflict {
	type claim struct {
		id     resource.ID
		netns  string
		prefix netip.Prefix
		before int // rules up to this priority come first
	}
	var claims []claim
	for _, id := range desired.IDs() {
		switch r := desired[id].(type) {
		case Rule:
			claims = append(claims, claim{id, r.NetNS, r.Src, r.Priority})
		case resource.PodPrefixer:
			if p, ok := r.PodRange(); ok {
				claims = append(claims, claim{id, id.NetNS, p, mainPriority})
			}
		}
	}
	var conflicts []resource.Conflict
	for _, f := range foreign {
		for _, c := range claims {
			// A rule without a source is about everything: too common (VPNs, VRFs) to refuse, it is warned of.
			if f.NetNS != c.netns || !f.Src.IsValid() || f.Src.Bits() == 0 || f.Priority > c.before || !f.Src.Overlaps(c.prefix) {
				continue
			}
			conflicts = append(conflicts, f.conflict(c.id, c.prefix))
			break
		}
	}
	return conflicts
}

func (r Rule) conflict(id resource.ID, p netip.Prefix) resource.Conflict {
	return resource.Conflict{
		ID:      id,
		Foreign: "rule " + r.text(),
		Owner:   resource.ProtocolOwner(r.Protocol),
		Fix: fmt.Sprintf("it decides about packets from %s before plumb's routes do: take it away (%s rule del priority %d), or give it other sources",
			p, resource.IPCommand(r.NetNS, r.Src.Addr().Is6()), r.Priority),
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
