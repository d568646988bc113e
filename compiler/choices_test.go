package compiler

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/schema"
)

// fields set what each setting of the table is about, on a node with a pod and a service.
var fields = map[string]func(*schema.Config, string){
	podAttach:         func(c *schema.Config, v string) { c.Pods = map[string]schema.Pod{"p": {Attach: v}} },
	congestionControl: func(c *schema.Config, v string) { c.Tuning.CongestionControl = v },
	masquerading:      func(c *schema.Config, v string) { c.Routing.Masquerade = v },
	hostRouting:       func(c *schema.Config, v string) { c.Routing.HostRouting = v },
	conntrackBypass:   func(c *schema.Config, v string) { c.Tuning.ConntrackBypass = v },
	tuningMTU: func(c *schema.Config, v string) {
		c.Tuning.MTU, _ = strconv.Atoi(v)
	},
	hostProfile: func(c *schema.Config, v string) {
		if v != "auto" { // the schema has no auto here
			c.Tuning.Host.Profile = v
		}
	},
	tuningMaps: func(c *schema.Config, v string) {
		if n, err := strconv.ParseFloat(v, 64); err == nil && n <= 1 {
			c.Tuning.Maps.Ratio = n
		} else if err == nil {
			c.Tuning.Maps.Services = int(n)
		}
	},
	bandwidthManager: func(c *schema.Config, v string) {
		c.Tuning.BandwidthManager = v
		c.Pods = map[string]schema.Pod{"p": {Bandwidth: schema.Bandwidth{Egress: "100M"}}}
	},
	tuningXDP:      func(c *schema.Config, v string) { c.Tuning.XDP = v },
	bigTCP:         func(c *schema.Config, v string) { c.Tuning.BigTCP = v },
	hostIRQBalance: func(c *schema.Config, v string) { c.Tuning.Host.IRQBalance = v },
	hostGovernor:   func(c *schema.Config, v string) { c.Tuning.Host.CPUGovernor = v },
	hostAffinity: func(c *schema.Config, v string) {
		if v != "auto" { // the schema has no auto here
			c.Tuning.Host.IRQAffinity = map[string]string{"eth0": v}
		}
	},
	hostRings: func(c *schema.Config, v string) {
		if n, err := strconv.Atoi(v); err == nil {
			c.Tuning.Host.Rings = map[string]schema.Rings{"eth0": {Rx: n}}
		}
	},
	hostCoalesce: func(c *schema.Config, v string) {
		if n, err := strconv.Atoi(v); err == nil {
			c.Tuning.Host.Coalesce = map[string]schema.Coalesce{"eth0": {RxUsecs: &n}}
		}
	},
	routingServices: func(c *schema.Config, v string) { c.Routing.Services = v },
	algorithm: func(c *schema.Config, v string) {
		s := c.Services["s"]
		s.Algorithm = v
		c.Services["s"] = s
	},
}

// cases are further values and circumstances that the table's sentences are about.
var cases = []struct {
	subject, value, in string
	change             func(*schema.Config)
}{
	{podAttach, "auto", "beside macvlan pods", func(c *schema.Config) { c.Pods["o"] = schema.Pod{Attach: "macvlan"} }},
	{bandwidthManager, "auto", "no limits", func(c *schema.Config) { c.Pods["p"] = schema.Pod{} }},
	{bandwidthManager, "on", "no limits", func(c *schema.Config) { c.Pods["p"] = schema.Pod{} }},
	{bandwidthManager, "on", "no uplink", func(c *schema.Config) { c.Nodes["n"] = schema.Node{PodCIDRs: []string{"10.0.0.0/24"}} }},
	{congestionControl, "bbr", "fq", func(c *schema.Config) { c.Tuning.BandwidthManager = "on" }},
	{congestionControl, "cubic", "", nil},
	{congestionControl, "westwood", "", nil},
	{masquerading, "auto", "with an address", addressed},
	{masquerading, "bpf", "with an address", addressed},
	{masquerading, "auto", "with an address, nftables", func(c *schema.Config) { addressed(c); c.Routing.Services = wayNftables }},
	{masquerading, "bpf", "macvlan", func(c *schema.Config) { addressed(c); c.Pods["p"] = schema.Pod{Attach: "macvlan"} }},
	{masquerading, "bpf", "beside macvlan pods", func(c *schema.Config) { addressed(c); c.Pods["o"] = schema.Pod{Attach: "macvlan"} }},
	{hostRouting, "auto", "a firewall", nil},
	{hostRouting, "bpf", "a firewall", nil},
	{conntrackBypass, "auto", "a firewall", nil},
	{conntrackBypass, "on", "a firewall", nil},
	{masquerading, "auto", "with an address, a firewall", addressed},
	{conntrackBypass, "auto", "no uplink", func(c *schema.Config) { c.Nodes["n"] = schema.Node{PodCIDRs: []string{"10.0.0.0/24"}} }},
	{conntrackBypass, "auto", "an uplink that is gone", func(c *schema.Config) {
		c.Nodes["n"] = schema.Node{PodCIDRs: []string{"10.0.0.0/24"}, Uplinks: []string{"eth0", "gone0"}}
	}},
	{conntrackBypass, "on", "legacy", func(c *schema.Config) { c.Routing.HostRouting = "legacy" }},
	{conntrackBypass, "auto", "legacy", func(c *schema.Config) { c.Routing.HostRouting = "legacy" }},
	{conntrackBypass, "on", "legacy, nftables", func(c *schema.Config) { c.Routing.HostRouting, c.Routing.Services = "legacy", wayNftables }},
	{conntrackBypass, "auto", "legacy, nftables", func(c *schema.Config) { c.Routing.HostRouting, c.Routing.Services = "legacy", wayNftables }},
	{tuningMTU, "1400", "", nil},
	{tuningMTU, "9000", "", nil},
	{tuningMTU, "65536", "", nil},
	{tuningMaps, "0.01", "ratio", nil},
	{tuningMaps, "1", "ratio", nil},
	{tuningMaps, "1000000", "services", nil},
	{hostGovernor, "schedutil", "", nil},
	{hostRings, "256", "", nil},
	{hostRings, "65536", "", nil},
	{hostCoalesce, "50", "", nil},
	{hostAffinity, "0-3,6", "", nil},
	{algorithm, "maglev", "with nftables", func(c *schema.Config) { c.Routing.Services = wayNftables }},
}

// addressed gives the node an address.
func addressed(c *schema.Config) {
	n := c.Nodes["n"]
	n.Addresses = []string{"192.0.2.1"}
	c.Nodes["n"] = n
}

// guarded are the answers of a machine with rules of others.
func guarded(set *features.Set) *features.Set {
	with, host := *set, *set.Host
	with.Host = &host
	host.Firewall = []string{"iptables chain FORWARD of table filter", "iptables chain POSTROUTING of table nat"}
	host.Translating = host.Firewall[1:]
	return &with
}

// TestChoicesOnRecordedKernels prints what every value of every setting becomes on each kernel that was recorded: one table
// to read.
func TestChoicesOnRecordedKernels(t *testing.T) {
	var b strings.Builder
	for _, set := range recorded(t) {
		fmt.Fprintf(&b, "%s %s\n", set.Kernel, set.Arch)
		for i := range settings {
			s := &settings[i]
			if fields[s.subject] == nil {
				t.Fatalf("this test doesn't know how to set %s", s.subject)
			}
			fmt.Fprintf(&b, "  %s\n", s.subject)
			line := func(value, in string, change func(*schema.Config)) {
				cfg, set := served("", ""), set
				if strings.HasSuffix(in, "a firewall: ") {
					set = guarded(set)
				}
				fields[s.subject](cfg, value)
				if change != nil {
					change(cfg)
				}
				fmt.Fprintf(&b, "    %-9s %s%s\n", value, in, outcome(cfg, set, s))
			}
			line("auto", "", nil)
			for _, o := range s.options {
				line(o.value, "", nil)
			}
			for _, c := range cases {
				if c.subject == s.subject {
					in := ""
					if c.in != "" {
						in = c.in + ": "
					}
					line(c.value, in, c.change)
				}
			}
		}
	}
	golden(t, "testdata/compile/choices.txt", b.String())
}

// outcome is what a configuration makes of a setting.
func outcome(cfg *schema.Config, set *features.Set, s *setting) string {
	c, err := Compile(cfg, "n", set)
	if err != nil {
		text := err.Error()
		return "no: " + strings.TrimSpace(text[strings.Index(text, "* ")+2:])
	}
	subject := strings.NewReplacer("pods.NAME", "pods.p", "services.NAME", "services.s", "DEVICE", "eth0").Replace(s.subject)
	for _, ch := range c.Choices {
		if ch.Subject == subject {
			return "-> " + ch.Chosen + ": " + ch.Reason
		}
	}
	return "yes, without a line"
}

func recorded(t *testing.T) []*features.Set {
	t.Helper()
	sets, err := features.ReadFolder("../testdata/features")
	if err != nil {
		t.Fatal(err)
	}
	return sets
}

// TestChoicesPage fails where docs/choices.md isn't what the table says; `make generate` makes it.
func TestChoicesPage(t *testing.T) {
	var b bytes.Buffer
	if err := WriteChoices(&b, recorded(t)); err != nil {
		t.Fatal(err)
	}
	golden(t, "../docs/choices.md", b.String())
}

// Every option has a reason, and what rules it out is in the page too.
func TestChoicesAreExplained(t *testing.T) {
	for _, s := range settings {
		if s.doc == "" || strings.Contains(s.doc, "|") {
			t.Errorf("%s has no text", s.subject)
		}
		for _, o := range s.options {
			if o.why == "" || (o.unfit == nil) != (o.unless == "") {
				t.Errorf("%s: %s lacks its sentences", s.subject, o.value)
			}
		}
	}
}

// What profiles set is among the settings that a machine is asked about.
func TestProfilesAreProbed(t *testing.T) {
	for _, p := range profiles {
		if settingOf(hostProfile).option(p.name) == nil {
			t.Errorf("no option is named %s", p.name)
		}
		for _, s := range p.settings {
			if !slices.Contains(features.Sysctls, s.key) || s.why == "" {
				t.Errorf("nobody looks for %s, or nobody says why", s.key)
			}
		}
	}
}
