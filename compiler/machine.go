package compiler

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/hostfile"
	"plumb.internal/plumb/reconciler/resource/unit"
)

// spread is every processor that may serve a device.
const spread = "spread"

// placement says which processors serve a device.
type placement struct {
	dev   string
	facts features.Device
	cpus  resource.CPUs
	from  string
}

const (
	// unknown begins the reason for what features files of older versions don't say.
	unknown = "not available here, as far as is known: the features say nothing of "
	// anew is what to do then.
	anew = "; write them anew with plumb features -o json"
	// ofGuest is the reason where the machine belongs to somebody else.
	ofGuest = "not available here: the network namespace isn't the machine's own"
	// undone is what irqbalance does to interrupts that have a place.
	undone = "it would move the interrupts that irqAffinity places"
)

// guest says where what belongs to the whole machine is somebody else's.
func guest(s *situation) string {
	if s.set.Host != nil && s.set.Host.Guest {
		return ofGuest
	}
	return ""
}

// governed says why the processors can't have a governor.
func governed(s *situation, name string) string {
	h := s.set.Host
	switch {
	case s.set.AcceptAll:
		return ""
	case h == nil || h.Governors == nil:
		return unknown + "the processors' frequencies" + anew
	case h.Guest:
		return ofGuest
	case len(h.Governors) == 0:
		return "not available here: the frequencies of this machine's processors can't be set"
	case !slices.Contains(h.CommonGovernors(), name):
		return "this machine's processors can have " + strings.Join(h.CommonGovernors(), ", ")
	}
	return ""
}

// servable says why a device can't be served by processors of one's choice.
func servable(s *situation) string {
	if !slices.Contains(s.node.Uplinks, s.uplink) {
		return fmt.Sprintf("%s isn't an uplink of the node, and plumb touches no other device", s.uplink)
	}
	if s.set.AcceptAll {
		return ""
	}
	var d features.Device
	known := s.set.Host != nil && s.set.Host.OnlineCPUs != ""
	if s.set.Host != nil {
		d = s.set.Host.Devices[s.uplink]
		if d.MTU == 0 {
			return "this machine has no device " + s.uplink
		}
	}
	if !known || d.RXQueues == 0 {
		return unknown + "the queues of " + s.uplink + anew
	}
	return ""
}

// listed says why a list of processors can't serve a device.
func listed(s *situation, list string) string {
	cpus, err := resource.ParseCPUs(list)
	if err != nil {
		return err.Error()
	}
	if why := servable(s); why != "" || s.set.AcceptAll {
		return why
	}
	if online, err := resource.ParseCPUs(s.set.Host.OnlineCPUs); err != nil || len(cpus.And(online)) < len(cpus) {
		return "the processors of this machine are " + s.set.Host.OnlineCPUs
	}
	return ""
}

// settleMachine decides on what is of the whole machine: the frequency of processors, and which of them serve devices.
func (b *builder) settleMachine() {
	all, own := &b.cfg.Tuning.Host, &b.node.Tuning.Host
	if wanted, path := b.wish(own.CPUGovernor, all.CPUGovernor, hostGovernor); wanted != "" {
		b.tuned.governor, b.tuned.governorFrom = b.choose(hostGovernor, wanted, path, b.situation()), path
	}
	devices := maps.Clone(all.IRQAffinity)
	if devices == nil {
		devices = map[string]string{}
	}
	maps.Copy(devices, own.IRQAffinity)
	for _, dev := range slices.Sorted(maps.Keys(devices)) {
		subject := strings.TrimSuffix(hostAffinity, "DEVICE")
		path := field(strings.TrimSuffix(subject, "."), dev)
		if _, mine := own.IRQAffinity[dev]; mine {
			path = b.node.path + "." + path
		}
		b.place(dev, devices[dev], path, subject+dev)
	}
	b.settleIRQBalance()
}

// settleIRQBalance decides whether interrupts are moved. Without a word that is so only where they have a place.
func (b *builder) settleIRQBalance() {
	wanted, path := b.wish(b.node.Tuning.Host.IRQBalance, b.cfg.Tuning.Host.IRQBalance, hostIRQBalance)
	s := b.situation()
	for _, p := range b.tuned.placements {
		if len(p.facts.IRQs) == 0 {
			continue
		}
		if s.placed = true; !asks(wanted) {
			path = p.from
		}
	}
	if asks(wanted) || s.placed {
		b.tuned.irqbalance, b.tuned.irqbalanceFrom = b.choose(hostIRQBalance, wanted, path, s), path
	}
}

// place settles which processors serve a device.
func (b *builder) place(dev, wanted, path, subject string) {
	t, s := settingOf(hostAffinity), b.situation()
	s.uplink = dev
	if why := t.refuse(wanted, s); why != "" {
		b.refused(t, wanted, path, why)
		return
	}
	if b.set.AcceptAll {
		b.choice(subject, wanted, wanted, explicitly)
		return // nothing is known of the device, so nothing can be placed
	}
	p := placement{dev: dev, facts: b.set.Host.Devices[dev], from: path}
	p.cpus, _ = resource.ParseCPUs(wanted)
	if wanted == spread {
		p.cpus, _ = resource.ParseCPUs(b.set.Host.OnlineCPUs)
		// The kernel lets those that are kept apart do none of it (RPS), or they would be disturbed.
		apart, _ := resource.ParseCPUs(b.set.Host.IsolatedCPUs)
		if rest := slices.DeleteFunc(slices.Clone(p.cpus), func(cpu int) bool { return slices.Contains(apart, cpu) }); len(rest) > 0 {
			p.cpus = rest
		}
		near, _ := resource.ParseCPUs(p.facts.LocalCPUs)
		if near = p.cpus.And(near); len(near) > 0 {
			p.cpus = near
		}
	}
	b.tuned.placements = append(b.tuned.placements, p)
	b.askedBy[subject] = path
	b.choice(subject, wanted, wanted, sentences(explicitly, p.interrupts(b.set.Host.Guest), p.queues()))
}

// interrupts says where they go.
func (p *placement) interrupts(guest bool) string {
	switch {
	case guest:
		return "interrupts stay where they are: the network namespace isn't the machine's own"
	case len(p.facts.IRQs) == 0:
		return "the driver has no interrupts that could be placed"
	}
	return fmt.Sprintf("interrupts %s go to processors %s", strings.ReplaceAll(strings.Trim(fmt.Sprint(p.facts.IRQs), "[]"), " ", ", "), p.cpus)
}

// queues says what is done for them.
func (p *placement) queues() string {
	text := ""
	if p.steers() {
		text = fmt.Sprintf("processors %s share what %s take in (RPS)", p.cpus, count(p.facts.RXQueues, "receive queue"))
	}
	if p.facts.TXQueues > 1 {
		text = sentences(text, fmt.Sprintf("they share out %s (XPS)", count(p.facts.TXQueues, "transmit queue")))
	}
	return text
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// steers reports whether interrupts alone don't reach all processors.
func (p *placement) steers() bool { return p.facts.RXQueues < len(p.cpus) || len(p.facts.IRQs) == 0 }

// buildMachine makes what settleMachine decided on.
func (b *builder) buildMachine() {
	if g := b.tuned.governor; g != "" && g != "off" && b.set.Host != nil {
		for _, policy := range slices.Sorted(maps.Keys(b.set.Host.Governors)) {
			b.put(hostfile.File{Path: hostfile.Governor(policy), Value: g, From: b.tuned.governorFrom})
		}
	}
	if w := b.tuned.irqbalance; w != "" {
		b.put(unit.Unit{Name: unit.IRQBalance, Active: w == "on", From: b.tuned.irqbalanceFrom})
	}
	for _, p := range b.tuned.placements {
		for i, irq := range p.facts.IRQs {
			b.put(hostfile.File{Path: hostfile.Affinity(irq), Value: p.share(i, len(p.cpus)).String(), From: p.from})
		}
		for q := range p.facts.RXQueues {
			if p.steers() {
				b.put(hostfile.File{Path: hostfile.RPS(p.dev, q), Value: p.cpus.String(), From: p.from})
			}
		}
		for q := range p.facts.TXQueues {
			if p.facts.TXQueues > 1 {
				b.put(hostfile.File{Path: hostfile.XPS(p.dev, q), Value: p.share(q, p.facts.TXQueues).String(), From: p.from})
			}
		}
	}
}

// share is what the i-th of n gets of the processors: every n-th one, and at least one.
func (p *placement) share(i, n int) resource.CPUs {
	if n >= len(p.cpus) {
		return p.cpus[i%len(p.cpus) : i%len(p.cpus)+1]
	}
	var some resource.CPUs
	for j := i; j < len(p.cpus); j += n {
		some = append(some, p.cpus[j])
	}
	return some
}
