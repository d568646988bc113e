package reconciler

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// savedExample is a plan and what it follows from.
func savedExample(t *testing.T) (Basis, *resource.Plan) {
	t.Helper()
	o := &Observed{Owned: state(fakePod{name: "web", attach: "veth", ip: 10})}
	p, err := newFake().table().diff(state(fakePod{name: "web", attach: "netkit", ip: 10}), o)
	if err != nil {
		t.Fatal(err)
	}
	set, err := DigestFeatures(&features.Set{Kernel: "6.18.5"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return Basis{Node: "edge-1", BootID: "b1", Kernel: "6.18.5", Config: "c1", Features: set, Observed: o}, p
}

// TestSavedPlan saves, reads and checks, and names what differs.
func TestSavedPlan(t *testing.T) {
	b, p := savedExample(t)
	path := filepath.Join(t.TempDir(), "plan")
	if err := SavePlan(path, b, p); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("files left: %v", left)
	}
	s, err := LoadPlan(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Check(b, p); err != nil {
		t.Errorf("nothing changed, but: %v", err)
	}
	for want, change := range map[string]func(*Basis){
		"configuration":               func(b *Basis) { b.Config = "c2" },
		"features":                    func(b *Basis) { b.Features = "f2" },
		"rebooted":                    func(b *Basis) { b.BootID = "b2" },
		"kernel is 6.19, it was 6.18": func(b *Basis) { b.Kernel = "6.19" },
		"observed state differs (netns web is gone": func(b *Basis) {
			o := resource.State{}
			for id, r := range b.Observed.Owned {
				if id.Kind != "netns" {
					o[id] = r
				}
			}
			b.Observed = &Observed{Owned: o}
		},
	} {
		now := b
		change(&now)
		err := s.Check(now, p)
		if _, ok := errors.AsType[*StalePlanError](err); !ok || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if err := s.Check(b, &resource.Plan{}); err == nil {
		t.Error("another plan passed")
	}
	now := b
	now.Node = "edge-2"
	if err := s.Check(now, p); err == nil || !strings.Contains(err.Error(), "for node edge-1, this is edge-2") {
		t.Errorf("another node: %v", err)
	}
}

// TestBadPlanFiles gives each bad file one clear error.
func TestBadPlanFiles(t *testing.T) {
	b, p := savedExample(t)
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	if err := SavePlan(good, b, p); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	shown, err := p.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	for want, content := range map[string]string{
		"is empty":              "",
		"is cut off":            string(whole[:len(whole)/2]),
		"is not a plan":         "hello",
		"plan --out":            string(shown),
		`has format "2"`:        strings.Replace(string(whole), `"format_version":"1"`, `"format_version":"2"`, 1),
		"was changed since":     strings.Replace(string(whole), "eth0", "eth1", 1),
		"is damaged":            strings.Replace(string(whole), `"observed":[`, `"observed":[7,`, 1),
		"not a plan that plumb": "[]",
	} {
		path := filepath.Join(dir, "bad")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadPlan(path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if _, err := LoadPlan(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := LoadPlan(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder: %v", err)
	}
}

// TestDigestFeatures: an uplink's facts count, those of a device that comes and goes don't.
func TestDigestFeatures(t *testing.T) {
	set := func(devices map[string]features.Device) string {
		t.Helper()
		d, err := DigestFeatures(&features.Set{Kernel: "6.18.5", Host: &features.HostFacts{Devices: devices}}, []string{"eth0"})
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	now := set(map[string]features.Device{"eth0": {MTU: 1500}})
	if now != set(map[string]features.Device{"eth0": {MTU: 1500}, "veth7": {MTU: 1400}}) {
		t.Error("another device changes the digest")
	}
	if now == set(map[string]features.Device{"eth0": {MTU: 9000}}) {
		t.Error("the uplink's MTU doesn't change the digest")
	}
}
