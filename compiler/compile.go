package compiler

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/reconciler/resource/netns"
	"plumb.internal/plumb/schema"
)

// Compiled is what one node should be, and why.
type Compiled struct {
	Node  string
	State resource.State
	// Choices are the answers to what the files leave to plumb, in the order of pods.
	Choices []resource.Choice
	// Warnings are what a person should know though nothing is wrong.
	Warnings []string
	Pods     []PodView
	// Straight is set where pods of the node reach each other past its stack.
	Straight bool
	// Beyond is set where what they exchange with other hosts goes past it too.
	Beyond bool
	// Maps are what the sizes of eBPF maps follow, defaults filled in.
	Maps schema.Maps
	// Untracked is set where the kernel doesn't track what pods send each other.
	Untracked bool
	// Health is how backends are probed.
	Health []HealthProbe
	// Checks are the statements on reachability that are made from this node, in the order of names.
	Checks []Check
}

// PodView says where to look for a pod.
type PodView struct {
	Name      string
	Attach    string
	Interface string // inside the pod
	Addresses []netip.Addr
	// HostDev is the device in the root namespace that the pod's packets come from: its own pair's end, or for bridge,
	// macvlan and ipvlan the one that leads to the pod.
	HostDev   string
	NetNSPath string
}

// Compile says what a node should be. It is pure: the same configuration, node and features give the same answer. Its
// error is a *multierror.Error of *Problem with every mistake that could be found, also in other nodes' pods.
func Compile(cfg *schema.Config, name string, set *features.Set) (*Compiled, error) {
	f := readFleet(cfg)
	i := slices.IndexFunc(f.nodes, func(n *node) bool { return n.name == name })
	if i < 0 {
		if err := f.err(); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("compile: no node is named %q", name)
	}
	b := newBuilder(f, f.nodes[i], set)
	b.settle()
	if err := f.err(); err != nil {
		return nil, err
	}
	b.build()
	if err := f.err(); err != nil {
		return nil, err
	}
	return b.out, nil
}

// builder makes the resources of one node.
type builder struct {
	*fleet
	node  *node
	set   *features.Set
	names *names
	out   *Compiled
	// lacking answers for each feature whether the kernel lacks it.
	lacking map[features.Feature]bool
	// askedBy are the fields that ask for choices, by subject.
	askedBy map[string]string

	datapath  datapath
	tuned     tuned
	limited   limited
	frontends []frontend
	probes    map[HealthTarget]int   // index in out.Health
	wirings   []wiring               // of all pods
	detours   map[string]link.Link   // of ipvlan-l3 pods that have one, by name
	programs  map[string]resource.ID // that are in the state, by name
}

func newBuilder(f *fleet, n *node, set *features.Set) *builder {
	return &builder{
		fleet: f, node: n, set: set,
		names: newNames(n, len(n.pods)),
		out: &Compiled{
			Node:  n.name,
			State: make(resource.State, 16*len(n.pods)+2*len(f.services)),
			Pods:  make([]PodView, 0, len(n.pods)),
		},
		lacking: map[features.Feature]bool{},
		askedBy: map[string]string{},
		probes:  map[HealthTarget]int{},
		detours: map[string]link.Link{},
	}
}

// settle decides what is left open: attachments, addresses, MTUs.
func (b *builder) settle() {
	choose := newChooser(b)
	for _, p := range b.node.pods {
		if p.bad {
			continue
		}
		if c := choose.choose(p, &b.problems); c != nil {
			b.out.Choices = append(b.out.Choices, *c)
		}
	}
	b.give(b.node, b.node.unaddressed())
	b.checkIPv6()
	b.settleMTUs()
	b.giveOthers()
	b.settleServices()
	b.settleDatapath()
	b.settleTuning()
	b.settleChecks()
	b.out.Straight, b.out.Maps = b.datapath.redirect, b.mapsSettings()
	b.out.Beyond = len(b.datapath.uplinks) > 0
}

// checkIPv6 finds IPv6 ranges on a kernel without IPv6: one mistake, though every pod has an address of them.
func (b *builder) checkIPv6() {
	if len(b.node.pods) == 0 || b.set.Supports(features.IPv6) {
		return
	}
	for _, c := range b.node.cidrs {
		if c.Addr().Is6() {
			b.add(c.path, "", "podCIDR %s needs IPv6: %s", c.Prefix, lacks(b.set, features.IPv6))
		}
	}
}

// build makes the resources. Everything that could be wrong with the configuration has been said before.
func (b *builder) build() {
	if len(b.node.pods) > 0 {
		b.root()
	}
	segments := segmentsOf(b.node)
	for _, s := range segments {
		b.wire(s)
	}
	for _, s := range segments {
		b.join(s, segments)
	}
	b.buildDatapath(segments)
	b.buildTuning()
	b.buildChecks()
	b.traceChoices()
	slices.SortFunc(b.out.Pods, func(x, y PodView) int { return cmp.Compare(x.Name, y.Name) })
}

// put adds a resource to the state.
func (b *builder) put(r resource.Resource) {
	id := r.ID()
	before := len(b.out.State)
	b.out.State[id] = r
	if len(b.out.State) == before {
		// Only settings of the user's own can meet one of ours.
		b.add(r.Origin(), "", "%s is set by plumb itself", id)
	}
	if b.set.AcceptAll {
		return
	}
	for _, f := range r.Requires() {
		lacking, known := b.lacking[f]
		if !known {
			lacking = !b.set.Supports(f)
			b.lacking[f] = lacking
		}
		if lacking {
			b.add(b.owner(id), "", "%s can't be made: %s", id, lacks(b.set, f))
		}
	}
}

// owner is the place to which a missing feature is put down: the pod, or the node for what is in its root namespace.
func (b *builder) owner(id resource.ID) string {
	pod := id.NetNS
	if id.Kind == netns.Kind {
		pod = id.Name
	}
	if pod == "" {
		return b.node.path
	}
	return field("pods", pod)
}
