package guard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	low "plumb.internal/plumb/internal/netns"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/features"
)

// lab is one node with the state from before.
type lab struct {
	o     host.Options
	root  *os.File
	name  string // of the world
	world world
	state string // folder of the history
}

// newLab makes a node and brings it to the state that a world begins with.
func newLab(t *testing.T, name string) *lab {
	t.Helper()
	l := &lab{o: kindtest.Options(t), name: name, state: t.TempDir()}
	if err := probed(); err != nil {
		t.Fatal(err)
	}
	l.world = worlds(name)
	var err error
	if l.root, err = os.Open(l.o.RootNS); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.root.Close() })
	h := kindtest.Open(t, l.o)
	if err := reconciler.Converge(t.Context(), h, l.world.from); err != nil {
		t.Fatal(err)
	}
	h.Close()
	t.Cleanup(func() {
		h := kindtest.Open(t, l.o)
		ctx := context.Background() // that of the test is over
		p, _, err := reconciler.PlanDestroy(ctx, h)
		if err == nil {
			err = reconciler.Destroy(ctx, h, p, reconciler.ApplyOptions{})
		}
		if err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return l
}

// probed finds out what the kernel can do, once for all tests and what they start.
var probed = sync.OnceValue(func() error {
	set, err := features.Probe(context.Background())
	if err != nil {
		return err
	}
	data, err := json.Marshal(set)
	if err != nil {
		return err
	}
	return os.WriteFile(os.Getenv(known), data, 0o600)
})

// known names the file of what the kernel can do.
const known = "PLUMB_TEST_FEATURES"

// snapshot is everything of the node that an apply can change: plumb's objects, and what ip shows of the root namespace.
func (l *lab) snapshot(t *testing.T) string {
	t.Helper()
	h := kindtest.Open(t, l.o)
	defer h.Close()
	o, err := reconciler.Observe(t.Context(), h, nil)
	if err != nil {
		t.Fatal(err)
	}
	record, err := reconciler.Record(o)
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	if err := json.Indent(&all, record, "", " "); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{l.o.RunDir, l.o.NetNSDir, l.o.BPFFS} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err == nil && !strings.HasSuffix(path, "/lock") && !strings.HasSuffix(path, "/"+revertedFile) {
				fmt.Fprintln(&all, path)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	err = low.Do(int(l.root.Fd()), func() error {
		for _, what := range []string{"-d -o link", "-o addr", "-4 route show table all", "-6 route show table all", "rule", "neigh show nud permanent"} {
			out, err := exec.Command("ip", strings.Fields(what)...).Output()
			if err != nil {
				return fmt.Errorf("ip %s: %w", what, err)
			}
			lines := strings.Split(volatile.ReplaceAllString(string(out), "*"), "\n")
			lines = slices.DeleteFunc(lines, func(line string) bool { return strings.Contains(line, "fe80::ff:fe00:ff01") }) // the uplink's, some time later
			slices.Sort(lines)
			fmt.Fprintln(&all, strings.Join(lines, "\n"))
		}
		forward, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
		fmt.Fprintf(&all, "ip_forward %s", forward)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// volatile is what differs when a device is made anew.
var volatile = regexp.MustCompile(`(?m)^[0-9]+:|@if[0-9]+|NO-CARRIER,|,LOWER_UP|state \S+|link-netnsid [0-9]+|(valid|preferred)_lft \S+|numtxqueues.*$| linkdown`)

// apply starts an apply that may be taken back.
func (l *lab) apply(t *testing.T, within time.Duration, env ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.ExtraFiles = []*os.File{l.root}
	cmd.Env = append(os.Environ(), "PLUMB_TEST_APPLY="+l.name, "PLUMB_TEST_RUN="+l.o.RunDir, "PLUMB_TEST_NETNS="+l.o.NetNSDir, "PLUMB_TEST_BPFFS="+l.o.BPFFS,
		"PLUMB_TEST_CGROUP="+l.o.Cgroup, "PLUMB_TEST_STATE="+l.state, "PLUMB_TEST_WITHIN="+within.String(), "SSH_CONNECTION="+l.world.session)
	cmd.Env = append(cmd.Env, env...)
	said := &bytes.Buffer{}
	// A file: with a pipe of exec.Cmd, Wait would wait for the guardian too.
	f, err := os.CreateTemp(t.TempDir(), "said")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	cmd.Cancel = func() error {
		data, err := os.ReadFile(f.Name())
		said.Write(data)
		return err
	}
	return cmd, said
}

// run applies and returns the exit code (-1 for a kill) and what was said.
func (l *lab) run(t *testing.T, within time.Duration, env ...string) (code int, said string) {
	t.Helper()
	cmd, out := l.apply(t, within, env...)
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if err := cmd.Cancel(); err != nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// settled waits until no guardian is at work any more, or about to be.
func (l *lab) settled(t *testing.T) {
	t.Helper()
	h := kindtest.Open(t, l.o)
	defer h.Close()
	until(t, "the guardian is done", func() bool {
		// One that is being killed loses its name before it is dead.
		if s, err := look(h); err != nil || s != nil && s.Guardian.Alive() {
			return false
		}
		all, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		return !slices.ContainsFunc(all, func(path string) bool {
			line, err := os.ReadFile(path)
			return err == nil && string(line) == argGuardian+"\x00"+l.o.RunDir+"\x00"
		})
	})
}

// until waits for something, with a deadline.
func until(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !done(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("after a minute it still isn't so that %s", what)
		}
	}
}

// resolve is what the next run begins with, though somebody stops it at once.
func (l *lab) resolve(t *testing.T) string {
	t.Helper()
	h := kindtest.Open(t, l.o)
	defer h.Close()
	unlock, err := lock(t.Context(), h) // a killed process may hold it for a moment
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, stop := context.WithCancel(t.Context())
	stop()
	said, err := Resolve(ctx, h)
	if err != nil {
		t.Fatal(err)
	}
	return said
}

// same fails unless the node is as it was, and the operator can be reached.
func (l *lab) same(t *testing.T, before, when string) {
	t.Helper()
	if d := cmp.Diff(before, l.snapshot(t)); d != "" {
		t.Fatalf("%s (-before +now):\n%s", when, d)
	}
	h := kindtest.Open(t, l.o)
	defer h.Close()
	s, _ := parseSession(l.world.session)
	if !s.find(t.Context(), h) {
		t.Fatalf("%s: the operator can't be reached", when)
	}
}
