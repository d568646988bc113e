package reconciler_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/internal/netns"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/hostfile"
	"plumb.internal/plumb/reconciler/resource/qdisc"
	"plumb.internal/plumb/schema"
)

// machined are the options of a host on a made machine: with an interrupt, and frequencies that can be set.
func machined(t *testing.T) host.Options {
	t.Helper()
	o := kindtest.Options(t)
	o.Machine = t.TempDir()
	for path, text := range map[string]string{hostfile.Affinity(30): "0-1\n", hostfile.Governor("policy0"): "schedutil\n"} {
		file := filepath.Join(o.Machine, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// tuning is the state of such a machine with two pods, and what was chosen for it.
func tuning(t *testing.T, asked schema.Tuning) (resource.State, []resource.Choice) {
	t.Helper()
	known, err := probed()
	if err != nil {
		t.Fatal(err)
	}
	set := *known
	set.Host = &features.HostFacts{MemoryBytes: memory, CPUs: 2, OnlineCPUs: "0-1", Governors: map[string][]string{"policy0": {"performance", "schedutil"}},
		Devices: map[string]features.Device{"eth0": {MTU: 1500, RXQueues: 1, TXQueues: 1, IRQs: []int{30}, GSOLimit: 512 << 10, Driver: "veth", XDP: "generic",
			XDPUnknown: true}}}
	out, err := compiler.Compile(&schema.Config{
		Nodes: map[string]schema.Node{kindtest.Node: {Uplinks: []string{"eth0"}, PodCIDRs: []string{"10.0.0.0/24"}}},
		Pods:  map[string]schema.Pod{"mac": {Attach: "macvlan"}, "web": {Attach: "veth"}}, Tuning: asked,
	}, kindtest.Node, &set)
	if err != nil {
		t.Fatal(err)
	}
	return out.State, out.Choices
}

// everyTuning asks for all of it, and for a qdisc.
func everyTuning(t *testing.T) resource.State {
	t.Helper()
	s, choices := tuning(t, schema.Tuning{BigTCP: "auto", MTU: 9000, XDP: "native", Host: schema.HostTuning{CPUGovernor: "performance", IRQAffinity: map[string]string{"eth0": "1"}}})
	set, err := probed()
	if err != nil {
		t.Fatal(err)
	}
	big := set.Supports(features.BigTCP4) || set.Supports(features.BigTCP6)
	for _, c := range choices {
		if c.Subject == "tuning.bigTCP" && (c.Chosen == "on") != big {
			t.Errorf("chosen: %+v", c)
		}
	}
	q := qdisc.Qdisc{Dev: "eth0", Type: qdisc.TBF, Rate: 1e9}
	if set.Supports(features.QdiscFQ) {
		q = qdisc.Qdisc{Dev: "eth0", Type: qdisc.FQ}
	}
	if err := s.Add(q); err != nil {
		t.Fatal(err)
	}
	return s
}

// values is everything that tuning changes, as it is now.
func values(t *testing.T, o host.Options, devices ...resource.Device) string {
	t.Helper()
	h := kindtest.Open(t, o)
	var b strings.Builder
	for _, path := range []string{hostfile.Affinity(30), hostfile.Governor("policy0")} {
		data, err := os.ReadFile(filepath.Join(o.Machine, path))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %s\n", path, strings.TrimSpace(string(data)))
	}
	for _, d := range devices {
		ns, err := h.NS(d.NetNS)
		if err != nil {
			t.Fatal(err)
		}
		l, err := ns.Link(d.Name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%v mtu %d sizes %d %d %d %d qdisc %s", d, l.MTU, l.GSOMaxSize, l.GROMaxSize, l.GSOIPv4MaxSize, l.GROIPv4MaxSize, l.Qdisc)
		for _, x := range l.XDP {
			fmt.Fprintf(&b, " xdp mode %d", x.Mode)
		}
		b.WriteByte('\n')
		if err := ns.Do(func() error {
			sys, done, err := netns.Sysfs()
			if err != nil {
				return err
			}
			defer done()
			data, err := os.ReadFile(filepath.Join(sys, "class/net", d.Name, "queues/rx-0/rps_cpus"))
			fmt.Fprintf(&b, "%v rps %s", d, data)
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

// TestRealTuning tunes a host with running pods, finds nothing to do the second time, and takes it back: first because the
// files don't ask for it any more, then by destroying everything.
func TestRealTuning(t *testing.T) {
	o := machined(t)
	uplink := resource.Device{Name: "eth0"}
	devices := []resource.Device{uplink, {NetNS: "mac", Name: "eth0"}, {NetNS: "web", Name: "eth0"}, {Name: "pl-web"}}
	first := values(t, o, uplink)
	plain, _ := tuning(t, schema.Tuning{})
	all := everyTuning(t)
	if err := converge(t, o, plain); err != nil {
		t.Fatal(err)
	}
	before := values(t, o, devices...)
	for range 2 {
		if err := converge(t, o, all); err != nil {
			t.Fatal(err)
		}
		tuned := values(t, o, devices...)
		for _, want := range []string{hostfile.Affinity(30) + " 1\n", hostfile.Governor("policy0") + " performance\n", "{ eth0} mtu 9000 ", " xdp mode 1\n"} {
			if !strings.Contains(tuned, want) {
				t.Errorf("it lacks %q:\n%s", want, tuned)
			}
		}
		if set, err := probed(); err == nil && set.Supports(features.BigTCP4) && strings.Count(tuned, "sizes 196608 196608 196608 196608") != len(devices) {
			t.Errorf("sizes:\n%s", tuned)
		}
		h := kindtest.Open(t, o)
		h.OnWrite = func(_ int, what string) { t.Errorf("the second apply wrote: %s", what) }
		if err := reconciler.Converge(t.Context(), h, all); err != nil {
			t.Fatal(err)
		}
		if err := converge(t, o, plain); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(before, values(t, o, devices...)); d != "" {
			t.Errorf("not as before (-before +after):\n%s", d)
		}
	}
	if err := converge(t, o, all); err != nil {
		t.Fatal(err)
	}
	destroy(t, o)
	if d := cmp.Diff(first, values(t, o, uplink)); d != "" {
		t.Errorf("destroy left or changed (-before +after):\n%s", d)
	}
}

// TestRealTuningKilled stops the tuning before single writes, and destroys what there is: every value from before is back.
func TestRealTuningKilled(t *testing.T) {
	o := machined(t)
	uplink := resource.Device{Name: "eth0"}
	first := values(t, o, uplink)
	plain, _ := tuning(t, schema.Tuning{})
	all := everyTuning(t)
	step := 1
	if testing.Short() {
		step = 7
	}
	for n, ended := 1, false; !ended; n += step {
		if err := converge(t, o, plain); err != nil {
			t.Fatal(err)
		}
		h := kindtest.Open(t, o)
		at, err := until(n, h, func() error { return one(t.Context(), h, all) })
		h.Close()
		if err != nil {
			t.Fatalf("stopped at write %d: %v", n, err)
		}
		ended = at == ""
		destroy(t, o)
		if d := cmp.Diff(first, values(t, o, uplink)); d != "" {
			t.Fatalf("stopped at write %d (%s), destroy left or changed (-before +after):\n%s", n, at, d)
		}
	}
}
