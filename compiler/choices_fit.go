package compiler

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// shorter is why a path that is shorter than that of a pair isn't taken.
const shorter = "macvlan and ipvlan are shorter, but they pass the node by"

// wired refuses Wi-Fi for attachments whose pods have MACs of their own.
func wired(s *situation) string {
	if s.set.Host != nil && s.set.Host.Devices[s.uplink].Wireless {
		return fmt.Sprintf("uplink %s is wireless, and Wi-Fi takes one MAC a station", s.uplink)
	}
	return sits("macvlan")(s)
}

// sits asks for an uplink that an attachment can sit on.
func sits(attach string) func(*situation) string {
	return func(s *situation) string {
		if s.uplink == "" {
			return "the node names no uplink"
		}
		if s.set.Host != nil {
			if _, ok := s.set.Host.Devices[s.uplink]; !ok {
				return fmt.Sprintf("this machine has no device %s", s.uplink)
			}
		}
		if s.held != "" && s.held != attach {
			return fmt.Sprintf("uplink %s has %s pods", s.uplink, s.held)
		}
		return ""
	}
}

func notByNftables(s *situation) string {
	if s.way == wayNftables {
		return "nftables has no Maglev tables"
	}
	return ""
}

// stacked says what the stack is needed for.
func stacked(s *situation) string {
	switch {
	case s.way == wayNftables:
		return "nftables carries the services, and what it translates has to pass the stack both ways"
	case s.masquerade == masqueradeNftables:
		return "nftables masquerades, and what it translates has to pass the stack both ways"
	}
	return passed(s)
}

// passed says whose rules packets would pass by without a word. Who requires that gets it, and is warned.
func passed(s *situation) string {
	if !s.left || s.set.Host == nil || len(s.set.Host.Firewall) == 0 {
		return ""
	}
	return fmt.Sprintf("packets of pods would pass by others' %s; if the files ask for \"bpf\" they do", firstOf(s.set.Host.Firewall))
}

// firstOf names the first of some, and says how many more there are.
func firstOf(names []string) string {
	if n := len(names) - 1; n > 0 {
		return fmt.Sprintf("%s and %d more", names[0], n)
	}
	return names[0]
}

// withoutUplinks says which packets pass the stack all the same.
func withoutUplinks(s *situation) string {
	switch there, gone := s.uplinks(); {
	case len(gone) > 0:
		return fmt.Sprintf("this machine has no device %s, so what would leave by it goes through the stack", strings.Join(gone, ", "))
	case len(there) == 0:
		return "the node names no uplink, so what leaves it goes through the stack"
	}
	return ""
}

// uplinks are those of the node that the machine has, as far as is known, and those that it hasn't.
func (s *situation) uplinks() (there, gone []string) {
	for _, u := range s.node.Uplinks {
		if s.set.Host != nil {
			if _, ok := s.set.Host.Devices[u]; !ok {
				gone = append(gone, u)
				continue
			}
		}
		there = append(there, u)
	}
	return there, gone
}

// covered reports whether what leaves the node goes straight too: its uplinks are named, and all of them are there.
func (s *situation) covered() bool {
	there, gone := s.uplinks()
	return len(there) > 0 && len(gone) == 0
}

// tracking says what connections have to be tracked for, or why they aren't anyway.
func tracking(s *situation) string {
	switch {
	case s.way == wayNftables:
		return "nftables carries the services, and what it translates has to be tracked to be translated back"
	case s.straight && s.covered():
		return "routing.hostRouting isn't legacy: what pods send each other and other hosts doesn't pass connection tracking anyway"
	case s.left && s.set.Host != nil && len(s.set.Host.Translating) > 0:
		return fmt.Sprintf("others' %s may translate it, which takes tracking; if the files ask for \"on\" it doesn't any more",
			firstOf(s.set.Host.Translating))
	}
	return ""
}

// tooLarge says which driver doesn't take an MTU.
func tooLarge(s *situation, wanted string) string {
	mtu, err := strconv.Atoi(wanted)
	if err != nil || s.set.Host == nil {
		return "" // the schema takes no such word, and of what isn't known the driver has the last one
	}
	for _, dev := range s.node.Uplinks {
		d, there := s.set.Host.Devices[dev]
		if there && d.MaxMTU != 0 && mtu > d.MaxMTU {
			return fmt.Sprintf("the driver of uplink %s%s takes at most %d", dev, inBrackets(d.Driver), d.MaxMTU)
		}
	}
	return ""
}

func jumbo(s *situation) string {
	if len(s.node.Uplinks) == 0 {
		return ""
	}
	return fmt.Sprintf("uplinks (%s) have it too, so their networks must carry it", strings.Join(s.node.Uplinks, ", "))
}

func bbrInPod(s *situation) string { return allowedCongestion(s, "bbr") }

// bbrLimits says what fq would add.
func bbrLimits(s *situation) string {
	if s.fair {
		return "qdisc fq of the uplinks keeps packets until the times that sockets ask for" + timesLive(s)
	}
	text := "each socket spaces its packets by a timer of its own; qdisc fq at the uplink does it for all with fewer wake-ups"
	if !s.set.Supports(features.QdiscFQ) {
		return text + ", but " + lacks(s.set, features.QdiscFQ)
	}
	return text + `: tuning.bandwidthManager: "on"`
}

// preemption advises; how the kernel schedules is for the one who boots it to say.
func preemption(s *situation) string {
	if h := s.set.Host; h != nil && (h.Preempt == "full" || h.Preempt == "rt") {
		return fmt.Sprintf("this kernel preempts itself (%s), which costs throughput; preempt=none at boot, where it is built for that, doesn't", h.Preempt)
	}
	return ""
}

func socketLimits(s *situation) string {
	text := ""
	if !s.set.Supports(features.NetNSCookie) {
		text = "it acts for every process of the cgroup, whatever its namespace: " + lacks(s.set, features.NetNSCookie)
	}
	for _, f := range []features.Feature{features.CgroupGetpeername4, features.CgroupGetpeername6} {
		if !s.set.Supports(f) {
			return sentences(text, "programs that ask for their peer are told the backend: "+lacks(s.set, f))
		}
	}
	return text
}

func nftablesLimits(s *situation) string {
	text := ""
	if slices.ContainsFunc(s.services, func(s *service) bool { return s.affinity > 0 }) {
		text = "affinity goes by the client's address and has no end"
	}
	if slices.ContainsFunc(s.services, func(s *service) bool { return s.Algorithm == resource.RoundRobin }) {
		text = sentences(text, "services with as many backends take turns together")
	}
	return text
}
