package health

import (
	"time"

	"plumb.internal/plumb/compiler"
)

// tally counts the outcomes of a backend's probes.
type tally struct {
	down bool
	run  int // outcomes, one after the other, that speak against what it is
}

// count takes the outcome of one probe. It reports whether the backend went down, or came back, by it.
func (t *tally) count(answered bool, s compiler.HealthTarget) (changed bool) {
	if answered != t.down {
		t.run = 0
		return false
	}
	t.run++
	need := s.Failures
	if t.down {
		need = s.Successes
	}
	if t.run < need {
		return false
	}
	t.down, t.run = !t.down, 0
	return true
}

// next is how long after the beginning of a probe the next one begins. That is the interval, but once a probe has failed
// the others follow a little faster, and a backend of whom one failure is enough is always probed that much faster: so
// that one that died right after it answered is out within failures × interval, the last time-out included.
func (t *tally) next(s compiler.HealthTarget) time.Duration {
	switch {
	case t.down:
		return s.Interval
	case s.Failures == 1:
		return s.Interval - s.Timeout
	case t.run > 0:
		rest := time.Duration(s.Failures - 1)
		return s.Interval - (s.Timeout+rest-1)/rest
	}
	return s.Interval
}
