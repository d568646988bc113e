package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"plumb.internal/plumb/internal/lab"
	"plumb.internal/plumb/schema"
)

// manyPods is a repository that takes a while to apply, and a lab for it in which nothing is applied yet.
func manyPods(t *testing.T, pods int) *lab.Lab {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	text := fmt.Sprintf(`package plumb
import "list"
nodes: "edge-1": podCIDRs: ["10.0.0.0/16", "fd00:10::/64"]
podDefaults: attach: "veth"
pods: {for i in list.Range(0, %d, 1) {"p\(i)": labels: app: "web"}}
services: {for i in list.Range(0, 5, 1) {"s\(i)": {
	addresses: ["10.96.0.\(i+1)", "fd00:96::\(i+1)"]
	ports: {http: port: 80, dns: {port: 53, protocol: "UDP"}}
	selector: app: "web"
	algorithm: ["random", "round-robin", "maglev"][mod(i, 3)]
	affinity: timeout: "1h"
}}}
`, pods)
	if err := os.WriteFile(filepath.Join(dir, "plumb.cue"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	nodes, err := lab.NodesOf(&schema.Config{Nodes: map[string]schema.Node{"edge-1": {PodCIDRs: []string{"10.0.0.0/16", "fd00:10::/64"}}}})
	if err != nil {
		t.Fatal(err)
	}
	name := strings.ToLower(fmt.Sprintf("%s-%d", t.Name(), os.Getpid()))
	t.Cleanup(func() {
		if _, err := lab.Down(name); err != nil {
			t.Error(err)
		}
	})
	l, err := lab.Up(t.Context(), name, dir, nodes)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// inLab is a run of plumb in the lab's node.
func inLab(t *testing.T, l *lab.Lab, args ...string) *exec.Cmd {
	cmd := l.Command(t.Context(), "", append([]string{"plumb"}, args...)...)
	cmd.Dir = l.Dir
	return cmd
}

func mustRun(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

// stopMidway sends a signal once some of the namespaces are there, and returns the exit code and what was said.
func stopMidway(t *testing.T, l *lab.Lab, cmd *exec.Cmd, some func(namespaces int) bool, sig syscall.Signal) (int, string) {
	t.Helper()
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	names := fmt.Sprintf("/proc/%d/root/run/netns", l.Nodes[0].PID)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(2 * time.Minute); ; <-tick.C {
		entries, err := os.ReadDir(names)
		if err == nil && some(len(entries)) {
			break
		}
		if time.Now().After(deadline) {
			cmd.Process.Kill()
			t.Fatalf("never came to the middle: %d namespaces, %v\n%s", len(entries), err, &said)
		}
	}
	if err := cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait()
	if err == nil {
		t.Fatal("it was done before the signal came")
	}
	return cmd.ProcessState.ExitCode(), said.String()
}

// TestKilledMidway kills apply and destroy in the middle; running them again converges, and nothing is left.
func TestKilledMidway(t *testing.T) {
	const pods = 60
	l := manyPods(t, pods)
	some := func(n int) bool { return n > 5 && n < pods/2 }
	stopMidway(t, l, inLab(t, l, "apply", "--yes"), some, syscall.SIGKILL)
	mustRun(t, inLab(t, l, "apply", "--yes"))
	if out := mustRun(t, inLab(t, l, "apply", "--yes")); !strings.Contains(out, "no changes") {
		t.Errorf("a third apply says %s", out)
	}
	stopMidway(t, l, inLab(t, l, "destroy", "--yes"), some, syscall.SIGKILL)
	mustRun(t, inLab(t, l, "destroy", "--yes"))
	left := mustRun(t, l.Command(t.Context(), "", "sh", "-c", "ip netns; ls /run; ip -o link; ip route show table all proto 112; ip -6 route show table all proto 112"))
	if want := "netns\n"; !strings.HasPrefix(left, want) || strings.Count(left, "\n") != 3 {
		t.Errorf("left over:\n%s", left)
	}
}

// TestInterrupted sends what a terminal sends at ^C: apply stops before its next step and says how to go on.
func TestInterrupted(t *testing.T) {
	const pods = 60
	l := manyPods(t, pods)
	some := func(n int) bool { return n > 5 && n < pods/2 }
	code, said := stopMidway(t, l, inLab(t, l, "apply", "--yes"), some, syscall.SIGINT)
	if code != 1 || !strings.Contains(said, "interrupted") || !strings.Contains(said, "plumb apply goes on from here") {
		t.Errorf("exit code %d, and it says %s", code, said[max(0, len(said)-500):])
	}
	mustRun(t, inLab(t, l, "apply", "--yes"))
	if out := mustRun(t, inLab(t, l, "status")); strings.Contains(out, "drifted") {
		t.Error(out)
	}
}
