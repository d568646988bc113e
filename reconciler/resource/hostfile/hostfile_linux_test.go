package hostfile_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/internal/netns"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/hostfile"
)

// machine gives a host a made machine, so that the real one keeps its interrupts and frequencies.
func machine(t *testing.T, h *host.Host) {
	t.Helper()
	h.Machine = t.TempDir()
	put(t, h, hostfile.Governor("policy0"), "schedutil\n")
	put(t, h, hostfile.Affinity(30), "0-3\n")
}

func put(t *testing.T, h *host.Host, path, text string) {
	t.Helper()
	file := filepath.Join(h.Machine, path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, h *host.Host, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(h.Machine, path))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

// device reads a file of a device, or writes it where text isn't "", in the host's own namespace.
func device(t *testing.T, h *host.Host, path, text string) (now string) {
	t.Helper()
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() error {
		sys, done, err := netns.Sysfs()
		if err != nil {
			return err
		}
		defer done()
		file := filepath.Join(sys, strings.TrimPrefix(path, "/sys"))
		if text != "" {
			if err := os.WriteFile(file, []byte(text), 0); err != nil {
				return err
			}
		}
		data, err := os.ReadFile(file)
		now = strings.TrimSpace(string(data))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return now
}

func records(t *testing.T, h *host.Host) []string {
	t.Helper()
	files, err := filepath.Glob(h.Path("prior", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func update(t *testing.T, h *host.Host, f hostfile.File) {
	t.Helper()
	if err := (hostfile.Ops{}).Update(t.Context(), h, hostfile.File{}, f); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, h *host.Host, f hostfile.File) {
	t.Helper()
	if err := (hostfile.Ops{}).Delete(t.Context(), h, f); err != nil {
		t.Fatal(err)
	}
	if left := records(t, h); len(left) != 0 {
		t.Errorf("records left: %v", left)
	}
}

func TestKind(t *testing.T) {
	kindtest.Run(t, kindtest.Kind[hostfile.File]{
		Ops: hostfile.Ops{},
		Samples: []hostfile.File{
			{Path: hostfile.Governor("policy0"), Value: "performance"}, {Path: hostfile.Governor("policy0"), Value: "powersave"},
			{Path: hostfile.Affinity(30), Value: "1,0"},
			{Path: hostfile.RPS("eth0", 0), Value: "0-1"},
			{Path: hostfile.XPS("eth1", 1), Value: "1"},
		},
		Setup: func(t *testing.T, h *host.Host) {
			machine(t, h)
			ns, err := h.NS("")
			if err != nil {
				t.Fatal(err)
			}
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.NumTxQueues, attrs.NumRxQueues = "eth1", 2, 2
			if err := ns.Handle().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "far1", PeerTxQLen: -1}); err != nil {
				t.Fatal(err)
			}
		},
	})
}

// A device's files are those of the namespace that is the host's, though /sys shows another one's.
func TestDeviceOfTheNamespace(t *testing.T) {
	h := kindtest.Root(t)
	f := hostfile.File{Path: hostfile.RPS("eth0", 0), Value: "0-1"}
	update(t, h, f)
	if v := device(t, h, f.Path, ""); v != "3" {
		t.Errorf("the mask is %q", v)
	}
	if other, err := os.ReadFile(f.Path); err == nil && strings.Trim(strings.TrimSpace(string(other)), "0,") != "" {
		t.Errorf("the mask of another namespace's device is %q", other)
	}
	remove(t, h, f)
	if v := device(t, h, f.Path, ""); v != "0" {
		t.Errorf("afterwards the mask is %q", v)
	}
}

// The value from before the first change counts, however often plumb's own value changes or somebody's is healed.
func TestFirstPrior(t *testing.T) {
	h := kindtest.Root(t)
	machine(t, h)
	f := hostfile.File{Path: hostfile.Affinity(30), Value: "0"}
	update(t, h, f)
	f.Value = "1"
	update(t, h, f)
	put(t, h, f.Path, "2\n") // drift, healed
	update(t, h, f)
	remove(t, h, f)
	if v := get(t, h, f.Path); v != "0-3" {
		t.Errorf("the value is %s", v)
	}
}

// A change that was cut off between the record and the file is undone all the same.
func TestCutOffChange(t *testing.T) {
	h := kindtest.Root(t)
	machine(t, h)
	f := hostfile.File{Path: hostfile.Affinity(30), Value: "0"}
	update(t, h, f)
	again, err := host.Open(h.Options)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	func() {
		defer func() { _ = recover() }()
		again.OnWrite = func(n int, _ string) {
			if n == 2 {
				panic("killed")
			}
		}
		update(t, again, hostfile.File{Path: f.Path, Value: "1"})
	}()
	if v := get(t, h, f.Path); v != "0" {
		t.Fatalf("the kill came too late: the value is %s", v)
	}
	remove(t, h, f)
	if v := get(t, h, f.Path); v != "0-3" {
		t.Errorf("the value is %s", v)
	}
}

// A value that isn't ours any more stays, and that is said.
func TestValueOfSomebodyElse(t *testing.T) {
	h := kindtest.Root(t)
	machine(t, h)
	f := hostfile.File{Path: hostfile.Governor("policy0"), Value: "performance"}
	update(t, h, f)
	put(t, h, f.Path, "powersave\n")
	remove(t, h, f)
	if v := get(t, h, f.Path); v != "powersave" {
		t.Errorf("the value is %s", v)
	}
	if w := h.Warnings(); len(w) != 1 || !strings.Contains(w[0], f.Path) {
		t.Errorf("warnings: %q", w)
	}
}

// The same processors in other words are nothing to do, and leave no record.
func TestSameSet(t *testing.T) {
	h := kindtest.Root(t)
	machine(t, h)
	f := hostfile.File{Path: hostfile.Affinity(30), Value: "3,2,0-1"}
	update(t, h, f)
	if h.Writes() != 0 || len(records(t, h)) != 0 {
		t.Errorf("%d writes, records %v", h.Writes(), records(t, h))
	}
}

// A record whose file is gone with its device goes without a word.
func TestGone(t *testing.T) {
	h := kindtest.Root(t)
	machine(t, h)
	f := hostfile.File{Path: hostfile.Affinity(30), Value: "1"}
	update(t, h, f)
	if err := os.RemoveAll(filepath.Join(h.Machine, filepath.Dir(f.Path))); err != nil {
		t.Fatal(err)
	}
	owned, _, err := (hostfile.Ops{}).Observe(t.Context(), h, nil)
	if err != nil || len(owned) != 1 {
		t.Fatalf("owned: %v, %v", owned, err)
	}
	// Nor can who comes back to this state ask for it.
	if back := resource.Restored(resource.State{f.ID(): owned[0]}); len(back) != 0 {
		t.Errorf("to come back to: %v", back)
	}
	remove(t, h, owned[0])
	if w := h.Warnings(); len(w) != 0 {
		t.Errorf("warnings: %q", w)
	}
}

// A device that came by the name of one that is gone was never changed: the other's record says nothing of it.
func TestAnotherDevice(t *testing.T) {
	h := kindtest.Root(t)
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	f := hostfile.File{Path: hostfile.RPS("br9", 0), Value: "0-1"}
	replug := func(mask string) {
		t.Helper()
		if old, err := ns.Handle().LinkByName("br9"); err == nil {
			if err := ns.Handle().LinkDel(old); err != nil {
				t.Fatal(err)
			}
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "br9"
		if err := ns.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			t.Fatal(err)
		}
		device(t, h, f.Path, mask)
	}
	unplumbed := func(want string) {
		t.Helper()
		remove(t, h, f)
		if v := device(t, h, f.Path, ""); v != want {
			t.Errorf("the mask is %s, want %s", v, want)
		}
	}
	replug("1")
	update(t, h, f)
	replug("2")
	update(t, h, f)
	unplumbed("2")
	update(t, h, f)
	replug("3") // the same as ours, but not by us
	unplumbed("3")
}

// What the machine hasn't got is found before anything is written, and so is what the kernel refuses or alters.
func TestErrors(t *testing.T) {
	h := kindtest.Root(t)
	machine(t, h)
	absent := []hostfile.File{{Path: hostfile.Governor("policy7"), Value: "performance", From: "tuning.host.cpuGovernor"},
		{Path: hostfile.RPS("eth9", 0), Value: "0", From: "tuning.host.irqAffinity.eth9"}}
	_, _, err := (hostfile.Ops{}).Observe(t.Context(), h, absent)
	for _, f := range absent {
		if want := f.From + ": not available here: read " + f.Path; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if h.Writes() != 0 {
		t.Errorf("%d writes", h.Writes())
	}
	for _, c := range []struct{ path, value, want string }{
		{hostfile.FlowCount("eth0", 0), "1000", `the kernel made "1024" of it`},
		{hostfile.FlowCount("eth0", 0), "purple", "the kernel doesn't take this value"},
		{hostfile.RPS("eth0", 0), "purple", "isn't a list of processors"},
		{"/sys/devices/../../etc/passwd", "x", "isn't a file that plumb sets"},
		{hostfile.Governor("../policy0"), "x", "isn't a file that plumb sets"},
	} {
		err := (hostfile.Ops{}).Create(t.Context(), h, hostfile.File{Path: c.path, Value: c.value})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.path, err, c.want)
		}
	}
	if v := device(t, h, hostfile.FlowCount("eth0", 0), ""); v != "0" {
		t.Errorf("what was refused left %s", v)
	}
}

func TestDescribe(t *testing.T) {
	paths := []string{hostfile.Governor("policy0"), hostfile.Affinity(30), hostfile.RPS("eth0", 1), hostfile.XPS("eth0.5", 2), hostfile.FlowCount("eth0", 1)}
	want := []string{"/sys/devices/system/cpu/cpufreq/policy0/scaling_governor", "/proc/irq/30/smp_affinity_list",
		"/sys/class/net/eth0/queues/rx-1/rps_cpus", "/sys/class/net/eth0.5/queues/tx-2/xps_cpus", "/sys/class/net/eth0/queues/rx-1/rps_flow_cnt"}
	if !slices.Equal(paths, want) {
		t.Errorf("paths: %q", paths)
	}
	if d := (hostfile.File{Path: paths[1], Value: "0-1"}).Describe(); d != "/proc/irq/30/smp_affinity_list = 0-1" {
		t.Error(d)
	}
}
