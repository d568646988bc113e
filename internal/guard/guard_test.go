package guard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
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
	known := filepath.Join(t.TempDir(), "features.json")
	set, err := features.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(known, data, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PLUMB_TEST_FEATURES", known)
	l.world = worlds(name)
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
	until(t, "the guardian is done", func() bool {
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

// resolve is what the next run begins with.
func (l *lab) resolve(t *testing.T) string {
	t.Helper()
	h := kindtest.Open(t, l.o)
	defer h.Close()
	unlock, err := lock(t.Context(), h) // a killed process may hold it for a moment
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	said, err := Resolve(t.Context(), h)
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

// TestCut cuts the way to the operator in every way that an apply can. Each time it is back long before the time is over.
func TestCut(t *testing.T) {
	for name, want := range map[string]string{
		"default route": "can't be reached any more", // the peer or the gateway, whichever is asked first
		"address":       "the session's own address " + here4 + " is gone",
		"namespace":     "can't be reached any more",
		"sysctl":        "peer of this session, " + gateway6,
		"link down":     "can't be reached any more",
		"program":       "peer of this session, 10.0.0.10",
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, name)
			before := l.snapshot(t)
			code, said := l.run(t, time.Hour)
			if code != exitReverted || !strings.Contains(said, want) {
				t.Errorf("exit code %d, and it says %q, want %q", code, said, want)
			}
			l.same(t, before, "taken back")
			h := kindtest.Open(t, l.o)
			if r, err := LastReverted(h); err != nil || r == nil || !strings.Contains(r.Why, want) {
				t.Errorf("noted is %+v, %v", r, err)
			}
			if said := l.resolve(t); said != "" {
				t.Errorf("the next run finds something: %s", said)
			}
		})
	}
}

// TestNobodyConfirms takes back when the time is over, and not before.
func TestNobodyConfirms(t *testing.T) {
	l := newLab(t, "harmless")
	before := l.snapshot(t)
	began := time.Now()
	code, said := l.run(t, time.Second)
	if code != exitReverted || !strings.Contains(said, "nobody confirmed within 1s") || time.Since(began) < time.Second {
		t.Errorf("exit code %d after %s, and it says %q", code, time.Since(began), said)
	}
	l.same(t, before, "taken back")
}

// waiting starts an apply and waits until it waits.
func (l *lab) waiting(t *testing.T, env ...string) (*exec.Cmd, *State) {
	t.Helper()
	cmd, out := l.apply(t, time.Hour, env...)
	h := kindtest.Open(t, l.o)
	defer h.Close()
	var s *State
	until(t, "the apply waits", func() bool {
		_, now, err := Look(h)
		s = now
		if err == nil && now == nil && !(Process{PID: cmd.Process.Pid}).exists() {
			_ = cmd.Cancel()
			t.Fatalf("the apply is gone: %s", out)
		}
		return err == nil && now != nil && now.Phase == Waiting
	})
	return cmd, s
}

func (p Process) exists() bool { state, _ := stat(p.PID); return state != "" && state != "Z" }

// TestConfirm keeps an apply, whoever is still there, and nobody takes it back afterwards.
func TestConfirm(t *testing.T) {
	for _, kill := range []string{"nobody", "apply", "guardian and apply"} {
		t.Run("without "+kill, func(t *testing.T) {
			l := newLab(t, "harmless")
			cmd, s := l.waiting(t)
			if strings.Contains(kill, "apply") {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				cmd.Wait()
			}
			if strings.Contains(kill, "guardian") {
				if err := s.Guardian.kill(); err != nil {
					t.Fatal(err)
				}
				until(t, "the guardian is dead", func() bool { return !s.Guardian.Alive() })
			}
			h := kindtest.Open(t, l.o)
			if err := Confirm(t.Context(), h); err != nil {
				t.Fatal(err)
			}
			if err := Confirm(t.Context(), h); !errors.Is(err, ErrNothing) {
				t.Errorf("the second time: %v", err)
			}
			if kill == "nobody" {
				if err := cmd.Wait(); err != nil {
					t.Errorf("the apply: %v", err)
				}
			}
			until(t, "the guardian is gone", func() bool { return !s.Guardian.Alive() })
			if said := l.resolve(t); said != "" {
				t.Error(said)
			}
			o, err := reconciler.Observe(t.Context(), h, l.world.to)
			if err != nil {
				t.Fatal(err)
			}
			if p, err := reconciler.Diff(l.world.to, o); err != nil || !p.Empty() {
				t.Errorf("not as applied: %v, %v", p, err)
			}
		})
	}
}

// every is the distance between the writes that a test stops before.
func every(t *testing.T, n int) int {
	t.Helper()
	if testing.Short() {
		n = max(n, 25)
	}
	if env := os.Getenv("PLUMB_TEST_EVERY"); env != "" {
		var err error
		if n, err = strconv.Atoi(env); err != nil || n < 1 {
			t.Fatalf("PLUMB_TEST_EVERY is %q", env)
		}
	}
	return n
}

// kills are the changes that are killed at every write: a small one, which takes everything away, and one with programs.
var kills = map[string]int{"namespace": 1, "harmless": 1, "programs": 11}

// patient is long enough for the changes, and what a test of kills waits for where nobody is killed.
const patient = 2 * time.Second

// TestKillApply kills the apply before single writes: the guardian takes it back, or before there is one, the next run.
func TestKillApply(t *testing.T) {
	for name, step := range kills {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, name)
			before := l.snapshot(t)
			step := every(t, step)
			for n := 1; ; n += step {
				code, said := l.run(t, patient, "PLUMB_TEST_AT="+strconv.Itoa(n))
				if code >= 0 && !strings.Contains(said, " writes\n") {
					t.Fatalf("to be killed at write %d: exit code %d: %s", n, code, said)
				}
				l.settled(t)
				l.resolve(t)
				l.same(t, before, fmt.Sprintf("apply killed at write %d", n))
				if code >= 0 {
					t.Logf("killed before %d writes, one in %d", n/step, step)
					break
				}
				if n > 1000 {
					t.Fatal("it never ends")
				}
			}
		})
	}
}

// TestKillGuardian kills the guardian before single writes of the apply, which takes itself back.
func TestKillGuardian(t *testing.T) {
	for name, step := range kills {
		t.Run(name, func(t *testing.T) {
			l := newLab(t, name)
			before := l.snapshot(t)
			step := every(t, step)
			for n := 1; ; n += step {
				code, said := l.run(t, patient, "PLUMB_TEST_KILL=guardian", "PLUMB_TEST_AT="+strconv.Itoa(n))
				if code != exitReverted && !(code == exitFailed && strings.Contains(said, "start the guardian")) {
					t.Fatalf("guardian killed at write %d of the apply: exit code %d: %s", n, code, said)
				}
				l.same(t, before, fmt.Sprintf("guardian killed at write %d of the apply", n))
				if said := l.resolve(t); said != "" {
					t.Errorf("the next run finds something: %s", said)
				}
				if _, writes, _ := strings.Cut("\n"+said, "\n"); writes == "" || n > 1000 {
					t.Fatal("it never ends")
				}
				var writes int
				if m := regexp.MustCompile(`(?m)^([0-9]+) writes$`).FindStringSubmatch(said); m != nil {
					writes, _ = strconv.Atoi(m[1])
				}
				if writes > 0 && n >= writes {
					t.Logf("killed before %d writes, one in %d", n/step, step)
					break
				}
			}
		})
	}
}

// TestKillBack kills the guardian before single writes while it takes back: the apply goes on with it, or where that is dead
// too, the next run.
func TestKillBack(t *testing.T) {
	for name, step := range kills {
		for _, dead := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, apply dead %t", name, dead), func(t *testing.T) {
				l := newLab(t, name)
				before := l.snapshot(t)
				step := every(t, max(2, step))
				for n := 2; ; n += step {
					env := []string{"PLUMB_TEST_GUARDIAN_AT=" + strconv.Itoa(n)}
					if dead {
						// It dies at its last write; a world that cuts the way has the guardian act.
						env = append(env, "PLUMB_TEST_AT="+strconv.Itoa(lastWrite(t, l)))
					}
					code, said := l.run(t, time.Second, env...)
					l.settled(t)
					found := l.resolve(t)
					l.same(t, before, fmt.Sprintf("guardian killed at its write %d", n))
					died := found != "" || strings.Contains(said, errDied.Error())
					if !dead && code != exitReverted {
						t.Fatalf("guardian killed at its write %d: exit code %d: %s", n, code, said)
					}
					// On a busy machine the changes may have taken too long: then there was less to take back.
					if !died && !strings.Contains(said, "took longer") {
						t.Logf("killed before %d writes, one in %d", (n-2)/step, step)
						break
					}
					if n > 1000 {
						t.Fatal("it never ends")
					}
				}
			})
		}
	}
}

// lastWrite is the number of the apply's last write, which it does when everything is verified.
func lastWrite(t *testing.T, l *lab) int {
	t.Helper()
	if n, ok := lastWrites[l.name]; ok {
		return n
	}
	code, said := l.run(t, time.Second)
	m := regexp.MustCompile(`(?m)^([0-9]+) writes$`).FindStringSubmatch(said)
	if code != exitReverted || m == nil {
		t.Fatalf("exit code %d: %s", code, said)
	}
	n, _ := strconv.Atoi(m[1])
	lastWrites[l.name] = n
	return n
}

var lastWrites = maps.Collect(maps.All(map[string]int{}))

// TestReboot finds nothing to take back after a reboot, whatever is left in a folder that survived it.
func TestReboot(t *testing.T) {
	l := newLab(t, "harmless")
	cmd, s := l.waiting(t)
	if err := errors.Join(s.Guardian.kill(), cmd.Process.Kill()); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	until(t, "the guardian is dead", func() bool { return !s.Guardian.Alive() })
	h := kindtest.Open(t, l.o)
	p, _, err := Look(h)
	if err != nil {
		t.Fatal(err)
	}
	p.BootID = "another one"
	if err := write(h, pendingFile, p); err != nil {
		t.Fatal(err)
	}
	if err := Confirm(t.Context(), h); !errors.Is(err, ErrNothing) {
		t.Errorf("confirm: %v", err)
	}
	if said := l.resolve(t); said != "" {
		t.Error(said)
	}
	if _, err := os.Lstat(h.Path(folder)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder is still there: %v", err)
	}
}

// TestDamaged goes on where the way back can't be read, and says so: a folder that a crash left never blocks a node.
func TestDamaged(t *testing.T) {
	for _, file := range []string{pendingFile, beforeFile, string(Waiting)} {
		t.Run(file, func(t *testing.T) {
			l := newLab(t, "harmless")
			cmd, s := l.waiting(t)
			if err := errors.Join(s.Guardian.kill(), cmd.Process.Kill()); err != nil {
				t.Fatal(err)
			}
			cmd.Wait()
			until(t, "the guardian is dead", func() bool { return !s.Guardian.Alive() })
			h := kindtest.Open(t, l.o)
			if err := os.WriteFile(path(h, file), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
			if said := l.resolve(t); !strings.Contains(said, "can't be taken back") {
				t.Errorf("it says %q", said)
			}
			if said := l.resolve(t); said != "" {
				t.Errorf("the second time it says %q", said)
			}
		})
	}
}
