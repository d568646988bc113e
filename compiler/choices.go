package compiler

import (
	"fmt"
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// attachment is one way to attach a pod, and what it asks for.
type attachment struct {
	name  string
	needs []features.Feature
	// unfit says why an uplink can't carry it; nil: any can.
	unfit func(dev string, d features.Device) string
	// why is the reason to choose it; "" if auto never does.
	why string
}

// attachments is the table that "auto" goes by: the first one that the kernel has and the uplink can carry is taken.
// Attachments that go through the host's stack to other hosts stand first, because there the host's own firewall sees them. Of
// ipvlan's modes l2 stands first, because l3 reaches pods of other attachments only by a veth pair.
var attachments = []attachment{
	{"veth", []features.Feature{features.LinkVeth}, nil,
		"the shortest path on which the host's own firewall sees what other hosts send and get, and it works on any uplink"},
	{"netkit", []features.Feature{features.LinkNetkit}, nil,
		"the host's own firewall sees what other hosts send and get, and it works on any uplink"},
	{"macvlan", []features.Feature{features.LinkMacvlan}, wired,
		"the shortest path on a wired uplink"},
	{"ipvlan-l2", []features.Feature{features.LinkIPvlanL2}, nil,
		"it works on any uplink, as pods share the uplink's MAC"},
	{"ipvlan-l3", []features.Feature{features.LinkIPvlanL3}, nil,
		"it works on any uplink, as pods share the uplink's MAC, and a veth pair leads to pods of other attachments"},
	{"bridge", []features.Feature{features.LinkBridge, features.LinkVeth}, nil, ""},
}

// shorter is why a path that is shorter than that of a pair isn't taken.
const shorter = "macvlan and ipvlan are shorter, but they pass the host's firewall by"

// wired refuses Wi-Fi for attachments whose pods have MACs of their own.
func wired(dev string, d features.Device) string {
	if d.Wireless {
		return fmt.Sprintf("uplink %s is wireless, and Wi-Fi takes one MAC a station", dev)
	}
	return ""
}

// obstacle says why an attachment can't be had on this kernel and uplink; "" if it can.
func (a *attachment) obstacle(set *features.Set, uplink string) string {
	for _, f := range a.needs {
		if !set.Supports(f) {
			return lacks(set, f)
		}
	}
	if !onUplink(a.name) || set.Host == nil || uplink == "" {
		return ""
	}
	d, ok := set.Host.Devices[uplink]
	switch {
	case !ok:
		return fmt.Sprintf("this machine has no device %s", uplink)
	case a.unfit != nil:
		return a.unfit(uplink, d)
	}
	return ""
}

// lacks says that a kernel has no f, and why it is thought so.
func lacks(set *features.Set, f features.Feature) string {
	name, text := strings.TrimPrefix(string(f), "link."), set.Why(f)
	if since := set.Features[f].Since; since != "" {
		text += "; upstream has it since " + since
	}
	if st := set.Features[f]; st.Supported == nil {
		return fmt.Sprintf("it isn't known whether this kernel has %s (%s)", name, text)
	}
	if set.Kernel == "" {
		return fmt.Sprintf("this kernel has no %s (%s)", name, text)
	}
	return fmt.Sprintf("kernel %s has no %s (%s)", set.Kernel, name, text)
}

// chooser answers attach: "auto", once for each uplink.
type chooser struct {
	set *features.Set
	// held is the attachment that explicit pods have on an uplink; auto must not choose another one there.
	held map[string]string
	done map[string]answer
}

type answer struct{ attach, reason string }

func newChooser(n *node, set *features.Set) *chooser {
	c := &chooser{set: set, held: map[string]string{}, done: map[string]answer{}}
	for _, p := range n.pods {
		if p.child() {
			c.held[p.Uplink] = p.Attach
		}
	}
	return c
}

// choose fills in the attachment of a pod whose field is "auto", and checks any other.
func (c *chooser) choose(p *pod, ps *problems) *resource.Choice {
	if p.Attach != "auto" {
		for i := range attachments {
			a := &attachments[i]
			if a.name != p.Attach {
				continue
			}
			if why := a.obstacle(c.set, p.Uplink); why != "" {
				ps.add(p.from(p.attachFrom, "attach"), "", "pod %s can't have attach %q: %s; %s", p.name, a.name, why, c.instead(a, p.Uplink))
				p.bad = true
			}
		}
		return nil
	}
	got, ok := c.done[p.Uplink]
	if !ok {
		got = c.auto(p.Uplink)
		c.done[p.Uplink] = got
	}
	if got.attach == "" {
		ps.add(p.from(p.attachFrom, "attach"), "", "pod %s can't be attached: %s", p.name, got.reason)
		p.bad = true
		return nil
	}
	p.Attach = got.attach
	return &resource.Choice{Subject: p.path + ".attach", Wanted: "auto", Chosen: got.attach, Reason: got.reason}
}

// instead says what could be used in the place of an attachment that can't be had.
func (c *chooser) instead(not *attachment, uplink string) string {
	var can []string
	for i := range attachments {
		a := &attachments[i]
		if a != not && a.obstacle(c.set, uplink) == "" && (uplink != "" || !onUplink(a.name)) {
			can = append(can, a.name)
		}
	}
	if len(can) == 0 {
		return "no other attachment works either"
	}
	return "this machine can do " + strings.Join(can, ", ")
}

// auto goes down the table for pods whose uplink is this one, or that have none ("").
func (c *chooser) auto(uplink string) answer {
	var not []string
	for i := range attachments {
		a := &attachments[i]
		why := a.obstacle(c.set, uplink)
		switch {
		case a.why == "":
			continue
		case why != "":
		case !onUplink(a.name):
			not = append(not, shorter)
		case uplink == "":
			why = "the node names no uplink"
		case c.held[uplink] != "" && c.held[uplink] != a.name:
			why = fmt.Sprintf("uplink %s has %s pods", uplink, c.held[uplink])
		}
		if why == "" {
			return answer{a.name, strings.Join(append([]string{a.why}, not...), "; ")}
		}
		not = append(not, "not "+a.name+": "+why)
	}
	return answer{"", strings.Join(not, "; ")}
}
