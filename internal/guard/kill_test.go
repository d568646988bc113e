package guard

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// every is the distance between the writes that a test stops before.
func every(t *testing.T, n int) int {
	t.Helper()
	if env := os.Getenv("PLUMB_TEST_EVERY"); env != "" {
		var err error
		if n, err = strconv.Atoi(env); err != nil || n < 1 {
			t.Fatalf("PLUMB_TEST_EVERY is %q", env)
		}
	}
	return n
}

// kills are the changes that are killed at every write, or at one in several where there are many: all that cut the way to the
// operator, and a harmless one.
func kills() map[string]int {
	if testing.Short() {
		return map[string]int{"namespace": 25, "program": 25}
	}
	return map[string]int{"default route": 1, "address": 1, "namespace": 1, "disable_ipv6": 1, "rp_filter": 1, "check": 1, "link down": 1,
		"harmless": 1, "program": 11}
}

// patient is long enough for the changes, and what a test of kills waits for where nobody is killed.
const patient = 2 * time.Second

// unhurried has the guardian give an apply time to let go: a machine that is emulated loads programs for longer than an apply
// has elsewhere, and then the guardian kills what the test doesn't.
const unhurried = quick + "=1m"

// long is what nobody waits for, unless something is wrong.
const long = 3 * time.Minute

// TestKillApply kills the apply before single writes: the guardian takes it back, or before there is one, the next run.
func TestKillApply(t *testing.T) {
	for name, step := range kills() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, name)
			before := l.snapshot(t)
			step := every(t, step)
			for n := 1; ; n += step {
				code, said := l.run(t, patient, unhurried, "PLUMB_TEST_AT="+strconv.Itoa(n))
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
	for name, step := range kills() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, name)
			before := l.snapshot(t)
			step := every(t, step)
			for n := 1; ; n += step {
				code, said := l.run(t, patient, unhurried, "PLUMB_TEST_KILL=guardian", "PLUMB_TEST_AT="+strconv.Itoa(n))
				if code != exitReverted && (code != exitFailed || !strings.Contains(said, "start the guardian")) {
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

// TestKillBoth kills the guardian and the apply before single writes of the apply: the next run takes it back.
func TestKillBoth(t *testing.T) {
	for name, step := range kills() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, name)
			before := l.snapshot(t)
			step := every(t, step)
			for n := 1; ; n += step {
				code, said := l.run(t, patient, unhurried, "PLUMB_TEST_KILL=both", "PLUMB_TEST_AT="+strconv.Itoa(n))
				l.settled(t) // it may have been about to start
				found := l.resolve(t)
				l.same(t, before, fmt.Sprintf("both killed at write %d", n))
				if code >= 0 {
					t.Logf("killed before %d writes, one in %d", n/step, step)
					break
				}
				if found != "" && !strings.Contains(found, "was taken back first") || n > 1000 {
					t.Fatalf("both killed at write %d: the next run says %q; %s", n, found, said)
				}
			}
		})
	}
}

// TestKillBack kills the guardian before single writes while it takes back: the apply goes on with it, or where that is dead
// too, the next run.
func TestKillBack(t *testing.T) {
	for name, step := range kills() {
		for _, dead := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, apply dead %t", name, dead), func(t *testing.T) {
				t.Parallel()
				l := newLab(t, name)
				before := l.snapshot(t)
				step := every(t, max(3, step))
				within := time.Second
				last := ""
				if dead { // it dies at its last write; a world that cuts the way has the guardian act
					last, within = lastWrite(t, l)
				}
				first := 2 + len(name)%step // with other writes in other worlds
				for n := first; ; n += step {
					code, said := l.run(t, within, unhurried, "PLUMB_TEST_GUARDIAN_AT="+strconv.Itoa(n), "PLUMB_TEST_AT="+last)
					l.settled(t)
					found := l.resolve(t)
					l.same(t, before, fmt.Sprintf("guardian killed at its write %d", n))
					died := found != "" || strings.Contains(said, errDied.Error())
					if !dead && code != exitReverted {
						t.Fatalf("guardian killed at its write %d: exit code %d: %s", n, code, said)
					}
					switch {
					case n > 1000 || within > long:
						t.Fatal("it never ends")
					case tooSlow(said): // there was less to take back
						within *= 2
						n -= step
					case !died:
						t.Logf("killed before %d writes, one in %d", (n-first)/step, step)
						return
					}
				}
			})
		}
	}
}

// tooSlow reports whether the changes took longer than a test gave them, as they may on a busy machine.
func tooSlow(said string) bool { return strings.Contains(said, "the changes took longer than") }

// lastWrite is the number of the apply's last write, which it does when everything is verified, and a time that was enough.
func lastWrite(t *testing.T, l *lab) (number string, within time.Duration) {
	t.Helper()
	for within = time.Second; within < long; within *= 2 {
		code, said := l.run(t, within, unhurried)
		m := regexp.MustCompile(`(?m)^([0-9]+) writes$`).FindStringSubmatch(said)
		if code != exitReverted || m == nil {
			t.Fatalf("exit code %d: %s", code, said)
		}
		if !tooSlow(said) {
			return m[1], within
		}
	}
	t.Fatal("the changes take too long")
	return "", 0
}
