package lab_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/internal/lab"
	"plumb.internal/plumb/schema"
)

func TestMain(m *testing.M) {
	if lab.RunChild() {
		return
	}
	os.Exit(m.Run())
}

// up brings up a lab of two nodes, and removes it at the end.
func up(t *testing.T, name string) *lab.Lab {
	t.Helper()
	kindtest.NeedRoot(t)
	nodes, err := lab.NodesOf(&schema.Config{Nodes: map[string]schema.Node{
		"a": {Uplinks: []string{"eth0", "eth1"}, PodCIDRs: []string{"10.0.0.0/24"}},
		"b": {Addresses: []string{"192.168.31.7"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Up(t.Context(), name, t.TempDir(), nodes)
	t.Cleanup(func() {
		if _, err := lab.Down(name); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func run(t *testing.T, l *lab.Lab, node string, argv ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, err := l.Command(ctx, node, argv...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v in node %s: %v\n%s", argv, node, err, out)
	}
	return string(out)
}

func name(t *testing.T, suffix string) string {
	return fmt.Sprintf("test-%d-%s", os.Getpid(), suffix)
}

func TestNodesAreJoinedAndPrivate(t *testing.T) {
	l := up(t, name(t, "join"))
	if got := run(t, l, "a", "cat", "/proc/sys/kernel/hostname"); got != "a\n" {
		t.Errorf("host name is %q", got)
	}
	if got := run(t, l, "b", "ls", "/sys/class/net", "/run"); !strings.Contains(got, "eth0") || !strings.Contains(got, "netns") || strings.Contains(got, "plumb-lab") {
		t.Errorf("node b sees %s", got)
	}
	if got := run(t, l, "a", "cat", "/proc/self/cgroup"); !strings.Contains(got, "0::/\n") {
		t.Errorf("node a is in cgroup %s", got)
	}
	run(t, l, "a", "ip", "link", "show", "eth1")
	run(t, l, "a", "ping", "-c1", "-W2", "192.168.31.7")
	run(t, l, "a", "ping", "-c1", "-W2", "192.168.31.1")
	run(t, l, "b", "ping", "-6", "-c1", "-W2", "fd00:31::100")
	again, err := lab.Up(t.Context(), l.Name, l.Dir, nil)
	if err != nil || again.Underlay != l.Underlay {
		t.Errorf("up again: %+v, %v", again, err)
	}
}

func TestTwoLabsHaveTheSameAddresses(t *testing.T) {
	one, two := up(t, name(t, "one")), up(t, name(t, "two"))
	run(t, one, "a", "ping", "-c1", "-W2", "192.168.31.7")
	run(t, one, "a", "ip", "link", "add", "onlyhere", "type", "bridge")
	if got := run(t, two, "a", "ip", "link"); strings.Contains(got, "onlyhere") {
		t.Errorf("a link of one lab shows in the other:\n%s", got)
	}
}

// TestDownAfterKill kills the holders, starts a process that keeps a namespace alive, and expects nothing to stay.
func TestDownAfterKill(t *testing.T) {
	l := up(t, name(t, "kill"))
	left := l.Command(context.Background(), "a", "sleep", "1000")
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	waited := make(chan error, 1)
	go func() { waited <- left.Wait() }()
	if err := unix.Kill(l.Nodes[1].PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// The record alone doesn't make a lab: up builds it again.
	for {
		if _, err := lab.Open(l.Name); err != nil {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("the dead node was never missed")
		}
	}
	again, err := lab.Up(t.Context(), l.Name, l.Dir, l.Nodes)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-waited:
	case <-time.After(5 * time.Second):
		left.Process.Kill()
		t.Error("a process in the old lab lives on")
	}
	if found, err := lab.Down(again.Name); !found || err != nil {
		t.Errorf("down: %v, %v", found, err)
	}
	if found, err := lab.Down(again.Name); found || err != nil {
		t.Errorf("down again: %v, %v", found, err)
	}
	left2, _ := filepath.Glob("/sys/fs/cgroup/plumb-lab-" + l.Name + "*")
	left3, _ := filepath.Glob("/sys/fs/cgroup/*/plumb-lab-" + l.Name + "*")
	if _, err := os.Stat(filepath.Join(lab.Root, l.Name)); err == nil || len(left2)+len(left3) > 0 {
		t.Errorf("left over: %v %v", left2, left3)
	}
}

func TestDefaultName(t *testing.T) {
	a, err := lab.DefaultName("/srv/My Net")
	if err != nil || !strings.HasPrefix(a, "my-net-") {
		t.Errorf("%q, %v", a, err)
	}
	if b, _ := lab.DefaultName("/home/My Net"); a == b {
		t.Error("two folders have one lab")
	}
}
