package reconciler_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/hostfile"
	"plumb.internal/plumb/schema"
)

// matrixUplink is the device that leads out of the node of the matrix.
const matrixUplink = "up0"

// asked is one setting of the table: how the files say it, which values it has besides those of the table, and what the kernel
// has in its place. read answers in the words of the table; it never asks plumb.
type asked struct {
	set  func(*schema.Config, string)
	more []string
	read func(*matrix) string
	// counts says that what is chosen is what the value comes to.
	counts bool
}

// matrixSettings is every row of the table.
var matrixSettings = map[string]asked{
	"pods.NAME.attach": {
		set: func(c *schema.Config, v string) {
			web := c.Pods["web"]
			web.Attach = v
			c.Pods["web"] = web
		},
		read: (*matrix).attachment,
	},
	"routing.services":    {set: func(c *schema.Config, v string) { c.Routing.Services = v }, read: (*matrix).services},
	"routing.hostRouting": {set: func(c *schema.Config, v string) { c.Routing.HostRouting = v }, read: (*matrix).hostRouting},
	"routing.masquerade":  {set: func(c *schema.Config, v string) { c.Routing.Masquerade = v }, read: (*matrix).masquerade},
	"services.NAME.algorithm": {
		set: func(c *schema.Config, v string) {
			web := c.Services["web"]
			web.Algorithm = v
			c.Services["web"] = web
		},
		read: (*matrix).algorithm,
	},
	"tuning.conntrackBypass": {
		set:  func(c *schema.Config, v string) { c.Routing.HostRouting, c.Tuning.ConntrackBypass = "legacy", v },
		read: (*matrix).bypass,
	},
	"tuning.bandwidthManager": {
		set: func(c *schema.Config, v string) {
			web := c.Pods["web"]
			web.Bandwidth = schema.Bandwidth{Egress: "50M", Ingress: "60M"}
			c.Pods["web"], c.Tuning.BandwidthManager = web, v
		},
		read: (*matrix).bandwidth,
	},
	"tuning.congestionControl": {
		set: func(c *schema.Config, v string) { c.Tuning.CongestionControl = v }, more: []string{"reno", "cubic", "nobodys"},
		read: (*matrix).congestion,
	},
	"tuning.mtu":    {set: func(c *schema.Config, v string) { fmt.Sscan(v, &c.Tuning.MTU) }, more: []string{"1400", "9000"}, read: (*matrix).mtu},
	"tuning.bigTCP": {set: func(c *schema.Config, v string) { c.Tuning.BigTCP = v }, read: (*matrix).bigTCP},
	"tuning.xdp":    {set: func(c *schema.Config, v string) { c.Tuning.XDP = v }, read: (*matrix).xdp},
	"tuning.host.profile": {
		set: func(c *schema.Config, v string) {
			if v != "auto" { // the schema has no auto here
				c.Tuning.Host.Profile = v
			}
		},
		read: (*matrix).profile,
	},
	"tuning.host.cpuGovernor": {
		set: func(c *schema.Config, v string) { c.Tuning.Host.CPUGovernor = v }, more: []string{"powersave", "ondemand"},
		read: (*matrix).governor,
	},
	"tuning.host.irqbalance": {set: func(c *schema.Config, v string) { c.Tuning.Host.IRQBalance = v }, read: (*matrix).irqbalance},
	"tuning.host.irqAffinity.DEVICE": {
		set: func(c *schema.Config, v string) {
			if v != "auto" {
				c.Tuning.Host.IRQAffinity = map[string]string{matrixUplink: v}
			}
		},
		more: []string{"0", "7"},
		read: (*matrix).affinity,
	},
	"tuning.maps": {
		set: func(c *schema.Config, v string) {
			if strings.Contains(v, ".") {
				fmt.Sscan(v, &c.Tuning.Maps.Ratio)
			} else if n, err := strconv.Atoi(v); err == nil {
				c.Tuning.Maps.Services = n
			}
		},
		more: []string{"0.01", "1.0", "5000"}, read: (*matrix).maps, counts: true,
	},
	// A pair has neither, so numbers are refused.
	"tuning.host.rings.DEVICE": {
		set: func(c *schema.Config, v string) {
			if n, err := strconv.Atoi(v); err == nil {
				c.Tuning.Host.Rings = map[string]schema.Rings{matrixUplink: {Rx: n}}
			}
		},
		more: []string{"256"}, read: func(*matrix) string { return "none" },
	},
	"tuning.host.coalesce.DEVICE": {
		set: func(c *schema.Config, v string) {
			if n, err := strconv.Atoi(v); err == nil {
				c.Tuning.Host.Coalesce = map[string]schema.Coalesce{matrixUplink: {RxUsecs: &n}}
			}
		},
		more: []string{"50"}, read: func(*matrix) string { return "none" },
	},
}

// TestMatrix asks for every value of every setting on this kernel: each is applied and read back from the kernel, or refused
// with a reason. Between two settings, and after destroy, all is as it was.
func TestMatrix(t *testing.T) {
	m := newMatrix(t)
	first := m.values()
	m.converge(m.base())
	before := m.values()
	for _, s := range compiler.Settings() {
		a, ok := matrixSettings[s.Subject]
		if !ok {
			t.Errorf("this test doesn't know how to ask for %s", s.Subject)
			continue
		}
		values := append(append([]string{"auto"}, s.Values...), a.more...)
		applied := 0
		for _, v := range values {
			if m.ask(s.Subject, a, v) {
				applied++
			}
		}
		if applied == 0 {
			t.Errorf("%s: no value can be had", s.Subject)
		}
		m.converge(m.base())
		if d := cmp.Diff(before, m.values()); d != "" {
			t.Fatalf("%s left or changed (-before +after):\n%s", s.Subject, d)
		}
	}
	destroy(t, m.o)
	if d := cmp.Diff(first, m.values()); d != "" {
		t.Errorf("destroy left or changed (-before +after):\n%s", d)
	}
}

// ask asks for one value, and reports whether it can be had.
func (m *matrix) ask(subject string, a asked, value string) bool {
	m.t.Helper()
	c := m.config()
	a.set(c, value)
	out, err := compiler.Compile(c, kindtest.Node, m.set)
	if err != nil {
		// "FIELD can't be X: why": the last word of the field is in it, and something is said after the colon.
		text := err.Error()
		_, why, _ := strings.Cut(text[strings.Index(text, "* ")+2:], ": ")
		if value == "auto" || !strings.Contains(why, ": ") {
			m.t.Errorf("%s %s: refused without a reason: %v", subject, value, err)
		}
		m.t.Logf("%s %s: refused: %s", subject, value, why)
		return false
	}
	chosen := value
	line := strings.NewReplacer("pods.NAME", "pods.web", "services.NAME", "services.web", "DEVICE", matrixUplink).Replace(subject)
	at := slices.IndexFunc(out.Choices, func(c resource.Choice) bool { return c.Subject == line })
	reason := "no line"
	if at >= 0 {
		chosen, reason = out.Choices[at].Chosen, out.Choices[at].Reason
		if reason == "" || value != "auto" && chosen != value && !a.counts {
			m.t.Errorf("%s %s: chosen is %s: %q", subject, value, chosen, reason)
		}
	}
	h := kindtest.Open(m.t, m.o)
	defer h.Close()
	if err := reconciler.Converge(m.t.Context(), h, out.State); err != nil {
		if value == "auto" || !strings.Contains(err.Error(), "no systemd") {
			m.t.Errorf("%s %s: chosen is %s, and apply says: %v", subject, value, chosen, err)
		}
		m.t.Logf("%s %s: refused: %v", subject, value, err)
		m.converge(m.base())
		return false
	}
	m.h = kindtest.Open(m.t, m.o)
	defer m.h.Close()
	m.inForce, m.chosen = c, chosen
	if got := a.read(m); (at >= 0 || value != "auto") && got != chosen {
		m.t.Errorf("%s %s: chosen is %s, the kernel has %s", subject, value, chosen, got)
	}
	m.t.Logf("%s %s -> %s: %s", subject, value, chosen, reason)
	if why := m.answers(); why != "" {
		m.t.Errorf("%s %s: %s", subject, value, why)
	}
	return true
}

// converge applies what has to be possible.
func (m *matrix) converge(c *schema.Config) {
	m.t.Helper()
	out, err := compiler.Compile(c, kindtest.Node, m.set)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := converge(m.t, m.o, out.State); err != nil {
		m.t.Fatal(err)
	}
}

// base asks for nothing.
func (m *matrix) base() *schema.Config { return m.config() }

// config is a node with two pods and a service in front of one of them.
func (m *matrix) config() *schema.Config {
	return &schema.Config{
		Nodes: map[string]schema.Node{kindtest.Node: {Uplinks: []string{matrixUplink}, Addresses: []string{"192.0.2.1", "2001:db8::1"},
			PodCIDRs: []string{"10.0.0.0/24", "fd00:10::/64"}}},
		Pods: map[string]schema.Pod{
			"client": {Attach: "veth", Addresses: []string{"10.0.0.20", "fd00:10::20"}},
			"web":    {Attach: "veth", Addresses: []string{"10.0.0.10", "fd00:10::10"}},
		},
		Services: map[string]schema.Service{"web": {Addresses: []string{"10.96.0.1"},
			Ports: map[string]schema.Port{"http": {Port: 80, TargetPort: 8080}}, Backends: []schema.Backend{{Pod: "web"}}}},
		Tuning: schema.Tuning{Maps: schema.Maps{Services: 200}},
	}
}

// machine adds what such a network namespace lacks to what is known of it: the frequencies and interrupts of a made machine.
func (m *matrix) machine() {
	ns := m.root()
	if err := ns.Do(func() (err error) {
		m.set, err = features.Probe(m.t.Context())
		return err
	}); err != nil {
		m.t.Fatal(err)
	}
	f := m.set.Host
	f.MemoryBytes, f.Guest, f.OnlineCPUs = memory, false, "0-1"
	f.Governors = map[string][]string{"policy0": {"performance", "powersave", "schedutil"}}
	d := f.Devices[matrixUplink]
	d.IRQs = []int{30}
	f.Devices[matrixUplink] = d
}

// made reads a file of the made machine.
func (m *matrix) made(path string) string {
	data, err := os.ReadFile(filepath.Join(m.o.Machine, path))
	if err != nil {
		m.t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func (m *matrix) governor() string {
	if g := m.made(hostfile.Governor("policy0")); g != "schedutil" || m.chosen != "off" {
		return g
	}
	return "off"
}

// irqbalance doesn't run on a machine that is made: off is true there, and on can't be had.
func (m *matrix) irqbalance() string { return "off" }

func (m *matrix) affinity() string {
	switch list := m.made(hostfile.Affinity(30)); {
	case m.chosen == "spread" && (list == "0" || list == "1"), list == m.chosen:
		return m.chosen
	default:
		return "processors " + list
	}
}

// options are those of a host of its own on the made machine.
func (m *matrix) options() host.Options { return machined(m.t) }
