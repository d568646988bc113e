package guard

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/kindtest"
)

// soon is what a test has everybody wait for what is stuck.
const soon = time.Second

// impatient makes this test, and what it starts, wait less for what is stuck.
func impatient(t *testing.T) {
	t.Helper()
	t.Setenv(quick, soon.String())
	p, m, o, r := patience, momentary, overdue, toRevert
	t.Cleanup(func() { patience, momentary, overdue, toRevert = p, m, o, r })
	quicken()
}

// TestStuck takes back an apply that hangs, is stopped or hung up on when it has cut the way to the operator, or whose guardian
// is stopped; nobody waits for the deadline where the way is cut.
func TestStuck(t *testing.T) {
	const cut = "mount the namespace at" // the addresses and links are gone
	for _, c := range []struct {
		name, world, kill, at string
		within                time.Duration
		code                  int
		want                  string
	}{
		{"hangs", "namespace", "hang", cut, long, -1, "can't be reached any more"},
		{"stopped", "namespace", "stop", cut, long, -1, "can't be reached any more"},
		{"hung up on", "namespace", "hangup", cut, long, -1, "the apply ended before it was done"},
		{"too slow", "harmless", "stop", "pl-new", time.Second, -1, "the changes took longer than 1s"},
		{"guardian stopped early", "harmless", "stop guardian", "pl-new", 3 * time.Second, exitReverted, errDied.Error()},
		{"guardian stopped late", "harmless", "stop guardian", "the last", 3 * time.Second, exitReverted, errDied.Error()},
		{"guardian stopped, way cut", "namespace", "stop guardian", cut, 3 * time.Second, exitReverted, errDied.Error()},
		{"guardian stopped while it goes back", "harmless", "", "", time.Second, exitReverted, errDied.Error()},
	} {
		t.Run(c.name, func(t *testing.T) {
			impatient(t)
			l := newLab(t, c.world)
			before := l.snapshot(t)
			env := []string{"PLUMB_TEST_KILL=" + c.kill, "PLUMB_TEST_AT=" + c.at}
			if c.kill == "" {
				env = []string{"PLUMB_TEST_GUARDIAN_STOPS_AT=delete link"}
			}
			code, said := l.run(t, c.within, env...)
			l.settled(t)
			l.same(t, before, "taken back")
			h := kindtest.Open(t, l.o)
			if r, err := LastReverted(h); err != nil || r == nil || !strings.Contains(r.Why, c.want) {
				t.Errorf("noted is %+v, %v, want %q", r, err, c.want)
			}
			if code != c.code {
				t.Errorf("exit code %d, want %d: %s", code, c.code, said)
			}
			if said := l.resolve(t); said != "" {
				t.Errorf("the next run finds something: %s", said)
			}
		})
	}
}

// TestHangup confirms an apply whose terminal was closed while it waited.
func TestHangup(t *testing.T) {
	l := newLab(t, "harmless")
	cmd, s := l.waiting(t)
	if err := cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	h := kindtest.Open(t, l.o)
	if _, now, err := Look(h); err != nil || now == nil || now.Phase != Waiting || !s.Guardian.Alive() {
		t.Fatalf("it waits no more: %+v, %v", now, err)
	}
	if err := Confirm(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	until(t, "the guardian is gone", func() bool { return !s.Guardian.Alive() })
}

// TestStoppedGuardian is one that nobody waits for: it can be confirmed for as long as there is time, and when that is over the
// next run takes back what it should have.
func TestStoppedGuardian(t *testing.T) {
	for _, within := range []time.Duration{time.Hour, time.Second} {
		t.Run(within.String(), func(t *testing.T) {
			impatient(t)
			l := newLab(t, "harmless")
			before := l.snapshot(t)
			// The apply is killed as soon as it waits.
			if code, said := l.run(t, within, "PLUMB_TEST_AT=the last"); code != -1 {
				t.Fatalf("exit code %d: %s", code, said)
			}
			h := kindtest.Open(t, l.o)
			_, s, err := Look(h)
			if err != nil || s == nil || s.Phase != Waiting {
				t.Fatalf("it doesn't wait: %+v, %v", s, err)
			}
			if err := unix.Kill(s.Guardian.PID, unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = s.Guardian.kill() })
			if within == time.Hour {
				var pending *PendingError
				if _, err := Resolve(t.Context(), h); !errors.As(err, &pending) {
					t.Errorf("another run: %v, want it refused", err)
				}
				if err := Confirm(t.Context(), h); err != nil {
					t.Error(err)
				}
				return
			}
			until(t, "it is overdue", func() bool { return !s.guarded() })
			if err := Confirm(t.Context(), h); !errors.Is(err, ErrNothing) {
				t.Errorf("confirm: %v", err)
			}
			if said := l.resolve(t); !strings.Contains(said, "was taken back first") {
				t.Errorf("the next run says %q", said)
			}
			l.same(t, before, "taken back by the next run")
			until(t, "the guardian is dead", func() bool { return !s.Guardian.Alive() })
		})
	}
}

// TestExpired can't be confirmed any more, although nobody is left to take it back: the next run does.
func TestExpired(t *testing.T) {
	l := newLab(t, "harmless")
	before := l.snapshot(t)
	if code, said := l.run(t, 2*time.Second, "PLUMB_TEST_AT=the last"); code != -1 {
		t.Fatalf("exit code %d: %s", code, said)
	}
	h := kindtest.Open(t, l.o)
	_, s, err := Look(h)
	if err != nil || s == nil {
		t.Fatalf("it doesn't wait: %v", err)
	}
	if err := s.Guardian.kill(); err != nil {
		t.Fatal(err)
	}
	until(t, "the time is over", func() bool { return boottime() > s.Deadline })
	if err := Confirm(t.Context(), h); !errors.Is(err, ErrNothing) {
		t.Errorf("confirm: %v", err)
	}
	if said := l.resolve(t); !strings.Contains(said, "was taken back first") {
		t.Errorf("the next run says %q", said)
	}
	l.same(t, before, "taken back by the next run")
}

// TestFull takes back what was applied although the file system of the run folder is full by then.
func TestFull(t *testing.T) {
	l := newLab(t, "namespace")
	moved := filepath.Join(t.TempDir(), "run")
	if err := os.CopyFS(moved, os.DirFS(l.o.RunDir)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("plumb-test", l.o.RunDir, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(l.o.RunDir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.CopyFS(l.o.RunDir, os.DirFS(moved)); err != nil {
		t.Fatal(err)
	}
	before := l.snapshot(t)
	impatient(t)
	stuff := filepath.Join(l.o.RunDir, "stuff")
	cmd, _ := l.apply(t, time.Hour, "PLUMB_TEST_KILL=hang", "PLUMB_TEST_AT=mount the namespace at")
	h := kindtest.Open(t, l.o)
	until(t, "changes are being made", func() bool {
		_, err := os.Stat(filepath.Join(h.Path("aside"), "op"))
		return err == nil
	})
	f, err := os.Create(stuff)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4<<10))
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	cmd.Wait()
	l.settled(t)
	if r, err := LastReverted(h); err != nil || r == nil {
		t.Errorf("noted is %+v, %v", r, err)
	}
	if err := os.Remove(stuff); err != nil {
		t.Fatal(err)
	}
	l.same(t, before, "taken back")
}

// TestSession finds the session of the processes above, and knows one that answers to nothing by its own connection.
func TestSession(t *testing.T) {
	const peer = "192.0.2.7 50022 192.0.2.1 22"
	cmd := exec.Command("sh", "-c", `"$@"; true`, "sh", "env", "-u", sessionVariable, "PLUMB_TEST_SESSIONS=1", "/proc/self/exe")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args[len(cmd.Args)-1] = exe
	cmd.Env = append(os.Environ(), sessionVariable+"="+peer)
	out, err := cmd.CombinedOutput()
	if err != nil || !slices.Contains(strings.Split(string(out), "\n"), "the peer of this session, 192.0.2.7") {
		t.Errorf("below sudo it is %q, %v", out, err)
	}
	for _, text := range []string{"", "192.0.2.7 50022 192.0.2.1", "127.0.0.1 1 127.0.0.1 22", "x 1 192.0.2.1 22", "192.0.2.7 x 192.0.2.1 22", "::ffff:127.0.0.1 1 ::1 22"} {
		if l, ok := parseSession(text); ok {
			t.Errorf("%q is %+v", text, l)
		}
	}
	zone, ok := parseSession("fe80::7%eth0 50022 fe80::1%eth0 22")
	if !ok || zone.Dev != "eth0" || zone.Remote.String() != "fe80::7" || zone.LocalPort != 22 {
		t.Errorf("with a zone: %+v", zone)
	}
}

// TestSilentPeer takes back where the peer answers to nothing, but its session had something to say.
func TestSilentPeer(t *testing.T) {
	l := newLab(t, "link down")
	before := l.snapshot(t)
	h := kindtest.Open(t, l.o)
	op, err := h.NS("op")
	if err != nil {
		t.Fatal(err)
	}
	silence := func(verb string) {
		for _, what := range []string{"ipproto 1", "ipproto 6 sport 22"} { // ICMP, and the refusal of SSH
			args := strings.Fields("rule " + verb + " pref 9 from " + operator4 + " " + what + " blackhole")
			if err := op.Do(func() error { return exec.Command("ip", args...).Run() }); err != nil {
				t.Fatalf("ip %v: %v", args, err)
			}
		}
	}
	goesOn := l.talk(t)
	silence("add")
	s, _ := parseSession(l.world.session)
	if !s.find(t.Context(), h) || s.By != bySession {
		t.Fatalf("it answers by %s", s.By)
	}
	code, said := l.run(t, long, "PLUMB_TEST_GATEWAYS=none")
	if code != exitReverted || !strings.Contains(said, "nothing that was sent in this session arrives") {
		t.Errorf("exit code %d, and it says %q", code, said)
	}
	goesOn()
	silence("del")
	l.same(t, before, "taken back")
}
