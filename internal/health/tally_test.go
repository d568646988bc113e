package health

import (
	"fmt"
	"testing"
	"time"

	"plumb.internal/plumb/compiler"
)

// TestTally gives a backend outcomes, + for an answer and - for none; what is wanted is its state after each, u or d.
func TestTally(t *testing.T) {
	for _, c := range []struct {
		failures, successes int
		outcomes, want      string
	}{
		{3, 2, "++++", "uuuu"},
		{3, 2, "---", "uud"},
		{3, 2, "--+--+---", "uuuuuuuud"}, // one after the other
		{3, 2, "---+-++", "uuddddu"},
		{3, 2, "---++---", "uudduuud"},
		{1, 1, "-+-+", "dudu"},
		{1, 3, "-++-+++", "ddddddu"},
		{5, 1, "-----+----", "uuuuduuuuu"},
	} {
		var y tally
		got := ""
		s := compiler.HealthTarget{Failures: c.failures, Successes: c.successes}
		for _, o := range c.outcomes {
			was := y.down
			if changed := y.count(o == '+', s); changed != (was != y.down) {
				t.Errorf("%+v: count says changed %v", c, changed)
			}
			got += map[bool]string{true: "d", false: "u"}[y.down]
		}
		if got != c.want {
			t.Errorf("%d failures, %d successes: %s gives %s, want %s", c.failures, c.successes, c.outcomes, got, c.want)
		}
	}
}

// TestOutInTime lets a backend die at the worst moment, right after a probe that it answered has begun, so that it answers
// no other: each takes its whole time-out. With every setting that the compiler lets through it is out in time.
func TestOutInTime(t *testing.T) {
	for _, failures := range []int{1, 2, 3, 10, 1000} {
		for _, interval := range []time.Duration{100 * time.Millisecond, time.Second, 2 * time.Second, time.Minute} {
			for _, timeout := range []time.Duration{0, 10 * time.Millisecond, interval / 2, compiler.MostTimeout(failures, interval)} {
				s := compiler.HealthTarget{Failures: failures, Successes: 1, Interval: interval, Timeout: timeout}
				name := fmt.Sprintf("%d failures, every %s for %s", failures, interval, timeout)
				var y tally
				y.count(true, s)
				now := y.next(s) // since the probe that was answered
				for !y.down {
					end := now + timeout
					y.count(false, s)
					if y.down {
						now = end
						break
					}
					next := now + y.next(s)
					if next < end {
						t.Fatalf("%s: the next probe begins %s before the last one ends", name, end-next)
					}
					now = next
				}
				if most := time.Duration(failures) * interval; now > most {
					t.Errorf("%s: out after %s", name, now)
				}
			}
		}
	}
}
