package reconciler_test

import (
	"context"
	"os"
	"slices"
	"sync"
	"testing"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/sysctl"
	"plumb.internal/plumb/schema"
)

// probed is what this kernel can do; a process that a test has started is told.
var probed = sync.OnceValues(func() (*features.Set, error) {
	if file := os.Getenv("PLUMB_TEST_FEATURES"); file != "" {
		return features.ReadFile(file)
	}
	return features.Probe(context.Background())
})

// able drops the attachments that this kernel lacks, by trying them.
func able(t testing.TB, attaches ...string) []string {
	t.Helper()
	set, err := probed()
	if err != nil {
		t.Fatal(err)
	}
	needs := map[string]features.Feature{"veth": features.LinkVeth, "bridge": features.LinkBridge, "macvlan": features.LinkMacvlan,
		"ipvlan-l2": features.LinkIPvlanL2, "ipvlan-l3": features.LinkIPvlanL3, "netkit": features.LinkNetkit}
	return slices.DeleteFunc(attaches, func(a string) bool {
		if !set.Supports(needs[a]) {
			t.Logf("left out: %s: %s", a, set.Why(needs[a]))
			return true
		}
		return false
	})
}

// memory is what the node is thought to have: its maps are as large as they have to be, unless the files ask for more.
const memory = 1 << 30

// larger is a tuning.maps.ratio that gives larger maps of what is learnt.
const larger = 0.008

// compileAll makes the desired state of a node that this kernel can have. What isn't said of the node is filled in.
func compileAll(t testing.TB, c schema.Config) resource.State {
	t.Helper()
	known, err := probed()
	if err != nil {
		t.Fatal(err)
	}
	set := *known
	set.Host = &features.HostFacts{MemoryBytes: memory, CPUs: 2, Devices: map[string]features.Device{"eth0": {}}}
	if c.Nodes == nil {
		c.Nodes = map[string]schema.Node{kindtest.Node: {Uplinks: []string{"eth0"}, PodCIDRs: []string{"10.0.0.0/24", "fd00:10::/64"}}}
	}
	if c.Tuning.Maps.Services == 0 {
		c.Tuning.Maps.Services = 200
	}
	out, err := compiler.Compile(&c, kindtest.Node, &set)
	if err != nil {
		t.Fatal(err)
	}
	return out.State
}

// compile makes the desired state of a node that has these pods.
func compile(t testing.TB, pods map[string]schema.Pod) resource.State {
	t.Helper()
	return compileAll(t, schema.Config{Pods: pods})
}

func weight(n int) *int { return &n }

// everyService has services of every algorithm, protocol and family, with backends in every state, inside the node and out.
func everyService() map[string]schema.Service {
	return map[string]schema.Service{
		"web": {
			Addresses: []string{"10.96.0.1", "fd00:96::1"}, Algorithm: "maglev", TableSize: 251, Affinity: schema.Affinity{Timeout: "1h"},
			Ports:    map[string]schema.Port{"http": {Port: 80, TargetPort: 8080}, "dns": {Port: 53, Protocol: "UDP"}},
			Backends: []schema.Backend{{Pod: "web"}, {Pod: "db", Weight: weight(3)}, {Pod: "mac", State: "terminating"}},
		},
		"turns": {
			Addresses: []string{"10.96.0.2"}, Algorithm: "round-robin", Affinity: schema.Affinity{Timeout: "60s"},
			Ports: map[string]schema.Port{"dns": {Port: 53, Protocol: "UDP"}, "tcp": {Port: 53}},
			Backends: []schema.Backend{{Pod: "web", Weight: weight(2)}, {Pod: "db"}, {Address: "192.0.2.7", Port: 5353},
				{Address: "192.0.2.8", State: "maintenance"}},
		},
		"any":    {Addresses: []string{"fd00:96::3"}, Algorithm: "random", Ports: map[string]schema.Port{"p": {Port: 443}}, Selector: map[string]string{"app": "x"}},
		"nobody": {Addresses: []string{"10.96.0.4"}, Ports: map[string]schema.Port{"p": {Port: 80}}, Selector: map[string]string{"app": "none"}},
	}
}

// everything has an example of every kind of object: pairs, a bridge, children of an uplink, an adopted namespace with
// rules, settings of the user's, and services by both ways that go together.
func everything(t testing.TB, adopted string) resource.State {
	t.Helper()
	pods := map[string]schema.Pod{
		"db":  {Attach: "bridge", Addresses: []string{"10.0.0.20", "fd00:10::20"}, Labels: map[string]string{"app": "x"}},
		"mac": {Attach: "macvlan", Addresses: []string{"10.0.0.40", "fd00:10::40"}},
		"web": {Attach: "veth", Addresses: []string{"10.0.0.10", "fd00:10::10"}, MTU: 1400, Labels: map[string]string{"app": "x"},
			Sysctls: map[string]string{"net.ipv4.tcp_keepalive_time": "60", "net.ipv4.conf.eth0.arp_ignore": "1"}},
	}
	if adopted != "" {
		pods["old"] = schema.Pod{Attach: "veth", NetNS: adopted, Interface: "eth1", Addresses: []string{"10.0.0.30", "fd00:10::30"}}
	}
	return compileAll(t, schema.Config{Pods: pods, Services: everyService()})
}

// settings are the IDs of all kernel settings of a state.
func settings(states ...resource.State) map[resource.ID]bool {
	keys := map[resource.ID]bool{}
	for _, s := range states {
		for id := range s {
			if id.Kind == sysctl.Kind {
				keys[id] = true
			}
		}
	}
	return keys
}
