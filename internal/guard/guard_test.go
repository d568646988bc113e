package guard

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler"
)

// TestCut cuts the way to the operator in every way that an apply can. Each time it is back long before the time is over, and
// the operator's session goes on where it was.
func TestCut(t *testing.T) {
	for name, want := range map[string]string{
		"default route": "can't be reached any more", // the peer or the gateway, whichever is asked first
		"address":       "the session's own address " + here4 + " is gone",
		"namespace":     "can't be reached any more",
		"disable_ipv6":  "peer of this session, " + gateway6,
		"rp_filter":     "can't be reached any more",
		"link down":     "can't be reached any more",
		"program":       "peer of this session, 10.0.0.10",
		"check":         "check hears (node " + kindtest.Node + " -> address " + gateway6 + ") doesn't hold any more",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, name)
			before := l.snapshot(t)
			goesOn := l.talk(t)
			code, said := l.run(t, long)
			if code != exitReverted || !strings.Contains(said, want) {
				t.Errorf("exit code %d, and it says %q, want %q", code, said, want)
			}
			goesOn()
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
