package main

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// unit reads the settings of the example's service; a line of comment that lists what isn't to be added gives forbidden.
func unit(t *testing.T) (settings map[string]string, forbidden []string) {
	t.Helper()
	b, err := os.ReadFile("../../examples/systemd/plumb.service")
	if err != nil {
		t.Fatal(err)
	}
	settings = map[string]string{}
	after := false
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		after = after && strings.HasPrefix(line, "#") || strings.HasPrefix(line, "# Not here")
		if after && strings.HasPrefix(line, "#   ") {
			forbidden = append(forbidden, strings.Fields(line)[1:]...)
		}
		if k, v, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			settings[k] = v
		}
	}
	return settings, forbidden
}

// TestUnitMakesNoMountNamespace: the list of the unit itself has no place among its settings.
func TestUnitMakesNoMountNamespace(t *testing.T) {
	settings, forbidden := unit(t)
	if len(forbidden) < 20 || !slices.Contains(forbidden, "ProtectSystem") || settings["Type"] != "notify" {
		t.Fatalf("the unit can't be read: %v, %v", settings, forbidden)
	}
	for _, name := range forbidden {
		if _, ok := settings[name]; ok {
			t.Errorf("%s makes a mount namespace", name)
		}
	}
	if out, err := exec.Command("systemd-analyze", "security", "--offline=true", "../../examples/systemd/plumb.service").Output(); err == nil {
		t.Log(string(out[max(0, len(out)-120):]))
	}
}

// TestUnitCapabilities: the capabilities of the unit, each of them needed by something, are enough for apply, the daemon, and
// destroy, within the unit's limit of locked memory.
func TestUnitCapabilities(t *testing.T) {
	l := manyPods(t, 3)
	settings, _ := unit(t)
	set := "-all"
	for _, c := range strings.Fields(settings["CapabilityBoundingSet"]) {
		set += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	// A container may not raise limits; a kernel that needs it raised fails then by itself.
	raise := fmt.Sprintf(`ulimit -l %s 2>/dev/null; exec "$@"`, strings.Replace(settings["LimitMEMLOCK"], "infinity", "unlimited", 1))
	limited := func(args ...string) string {
		t.Helper()
		cmd := l.Command(t.Context(), "", append([]string{"sh", "-c", raise, "sh",
			"setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=" + set, "plumb"}, args...)...)
		cmd.Dir = l.Dir
		return mustRun(t, cmd)
	}
	limited("run", "--once")
	limited("status")
	limited("svc", "ls")
	if out := mustRun(t, inLab(t, l, "apply", "--yes")); !strings.Contains(out, "no changes") {
		t.Errorf("with all capabilities there is more to do: %s", out)
	}
	limited("destroy", "--yes")
}
