package compiler

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/nic"
	"plumb.internal/plumb/reconciler/resource/sysctl"
)

// profiles are sets of settings that belong together, after the published profiles of the same names, as far as those are
// about the network; what they do to memory, disks and the scheduler isn't plumb's. All are lower bounds: a machine that has
// more keeps it.
var profiles = []struct {
	name     string
	settings []profiled
}{
	{"network-latency", []profiled{
		{"net.core.busy_read", "50", "a read looks into the device's queue for up to 50 µs before it sleeps"},
		{"net.core.busy_poll", "50", "so do poll and select"},
		{"net.ipv4.tcp_fastopen", "3", "clients and servers that ask for it send data with the first packet of a connection"},
	}},
	{"network-throughput", []profiled{
		{"net.ipv4.tcp_rmem", "4096 131072 16777216", "receive buffers grow to what a path of 10 Gbit/s and 13 ms holds"},
		{"net.ipv4.tcp_wmem", "4096 16384 16777216", "so do send buffers"},
		{"net.core.somaxconn", "2048", "bursts of new connections wait for their server instead of being dropped"},
	}},
}

// profiled is one setting of a profile.
type profiled struct{ key, value, why string }

// congestionKey is per namespace: a new one begins with what the first one has, and doesn't follow it.
const congestionKey = "net.ipv4.tcp_congestion_control"

// tuned is what the files ask for of the host, once it is known to be possible.
type tuned struct {
	profile, profileFrom       string
	congestion, congestionFrom string
	mtu                        int        // of the uplinks; 0 leaves them alone
	bypassFrom                 string     // the field that has connections not tracked; "" where they are
	sizes                      nic.Values // of packets on all devices; nil leaves them alone
	sizesFrom                  string
	governor, governorFrom     string
	irqbalance, irqbalanceFrom string
	placements                 []placement
	xdp                        []early
	xdpFrom                    string

	nics map[string]nic.NIC // somebody else's devices, such as uplinks, that get settings
}

// nic sets something of a device in the root namespace that isn't plumb's. Whatever a device gets makes one resource.
func (b *builder) nic(dev string, s nic.Setting, value uint32, from string) {
	if b.set.Host != nil {
		if _, ok := b.set.Host.Devices[dev]; !ok {
			return // settling says so
		}
	}
	if b.tuned.nics == nil {
		b.tuned.nics = map[string]nic.NIC{}
	}
	n, ok := b.tuned.nics[dev]
	if !ok {
		n = nic.NIC{Dev: dev, Values: nic.Values{}, From: from}
		b.tuned.nics[dev] = n
	}
	n.Values[s] = value
}

// settleTuning decides on what has nothing to do with the data path. MTUs are settled with those of pods.
func (b *builder) settleTuning() {
	all, own := &b.cfg.Tuning, &b.node.Tuning
	if wanted, path := b.wish(own.Host.Profile, all.Host.Profile, hostProfile); asks(wanted) {
		b.tuned.profile, b.tuned.profileFrom = b.choose(hostProfile, wanted, path, b.situation()), path
	}
	if wanted, path := b.wish(own.CongestionControl, all.CongestionControl, congestionControl); asks(wanted) {
		b.tuned.congestion, b.tuned.congestionFrom = b.choose(congestionControl, wanted, path, b.situation()), path
	}
	b.settlePodCongestion()
	b.settleMachine()
	b.settleEthtool()
	b.settleBigTCP()
	b.settleXDP()
	if len(b.node.pods) > 0 {
		b.settleBypass()
	}
}

// settlePodCongestion gives pods that say nothing the algorithm of the node: a namespace that was there before has another.
func (b *builder) settlePodCongestion() {
	t, s := settingOf(congestionControl), b.situation()
	s.inPod = true
	for _, p := range b.node.pods {
		switch {
		case p.bad:
		case asks(p.CongestionControl):
			path := p.from(p.congestionFrom, "congestionControl")
			if key := p.sets(congestionKey); key != "" {
				b.add(path, p.sysctlFrom(key, b.cfg), "congestion control of pod %s is set twice: sysctls set it too", p.name)
				continue
			}
			if why := t.refuse(p.CongestionControl, s); why != "" {
				b.add(path, "", "congestion control of pod %s can't be %q: %s", p.name, p.CongestionControl, why)
				continue
			}
			p.congestion, p.congestionPath = p.CongestionControl, path
			b.askedBy[p.path+".congestionControl"] = path
			b.choice(p.path+".congestionControl", p.congestion, p.congestion, sentences(explicitly, t.limit(p.congestion, s)))
		case p.CongestionControl == "" && b.tuned.congestion != "" && p.sets(congestionKey) == "":
			if why := t.refuse(b.tuned.congestion, s); why != "" {
				b.add(b.tuned.congestionFrom, p.path, "congestion control of pod %s can't be %q: %s", p.name, b.tuned.congestion, why)
				continue
			}
			p.congestion, p.congestionPath = b.tuned.congestion, b.tuned.congestionFrom
		}
	}
}

// sets is the key by which the files set a kernel setting of the pod, "" if they don't.
func (p *pod) sets(key string) string {
	for k := range p.Sysctls {
		if sysctlKey(k) == key {
			return k
		}
	}
	return ""
}

// buildTuning makes what settleTuning decided on.
func (b *builder) buildTuning() {
	if c := b.tuned.congestion; c != "" {
		b.put(sysctl.Sysctl{Key: congestionKey, Value: c, From: b.tuned.congestionFrom})
	}
	for _, p := range b.node.pods {
		if p.congestion != "" {
			b.put(sysctl.Sysctl{NetNS: p.name, Key: congestionKey, Value: p.congestion, From: p.congestionPath})
		}
	}
	for _, dev := range slices.Sorted(maps.Keys(b.tuned.nics)) {
		b.put(b.tuned.nics[dev])
	}
	for _, p := range profiles {
		if p.name == b.tuned.profile {
			b.buildProfile(p.settings)
		}
	}
	b.buildMachine()
	b.buildBigTCP()
	b.buildBandwidth()
}

func (b *builder) buildProfile(settings []profiled) {
	var missing []string
	for _, s := range settings {
		if b.set.Host != nil && b.set.Host.Sysctls != nil && !slices.Contains(b.set.Host.Sysctls, s.key) {
			missing = append(missing, s.key)
			continue
		}
		b.put(sysctl.Sysctl{Key: s.key, Value: s.value, AtLeast: true, From: b.tuned.profileFrom})
	}
	if len(missing) > 0 {
		b.warn("profile %s leaves out what this kernel or network namespace has no setting for: %s", b.tuned.profile, strings.Join(missing, ", "))
	}
}

// knownCongestion says why an algorithm can't be had. The kernel's list lacks modules that nobody has loaded yet.
func knownCongestion(s *situation, name string) string {
	if s.set.AcceptAll {
		return ""
	}
	if s.set.Host == nil || s.set.Host.Congestion == nil {
		return fmt.Sprintf("it isn't known whether this machine has %s: its features don't say; write them anew with plumb features -o json", name)
	}
	c := s.set.Host.Congestion
	if !slices.Contains(c.Available, name) {
		return fmt.Sprintf("this machine has %s; if %s is a module, load it first (modprobe tcp_%s)", strings.Join(c.Available, ", "), name, name)
	}
	return allowedCongestion(s, name)
}

// allowedCongestion says why a pod can't have an algorithm that the machine has.
func allowedCongestion(s *situation, name string) string {
	if !s.inPod || s.set.Host == nil || s.set.Host.Congestion == nil || slices.Contains(s.set.Host.Congestion.Allowed, name) {
		return ""
	}
	return fmt.Sprintf("this kernel lets namespaces of pods have %s; net.ipv4.tcp_allowed_congestion_control can name more",
		strings.Join(s.set.Host.Congestion.Allowed, ", "))
}

// wish is what the files say of a setting, and where: a node's own word goes before that for all. The path is that of the
// field for all, "routing.services".
func (b *builder) wish(node, all, path string) (wanted, at string) {
	if node != "" {
		return node, b.node.path + "." + path
	}
	return all, path
}

// choice notes what was chosen, for plan and status.
func (b *builder) choice(subject, wanted, chosen, reason string) {
	b.out.Choices = append(b.out.Choices, resource.Choice{Subject: subject, Wanted: wanted, Chosen: chosen, Reason: reason})
}
