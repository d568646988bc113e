// Package health finds out which backends of services answer.
//
//	prober.go   Prober: probes them for as long as the daemon lives
//	tally.go    when a backend counts as down, and when it is probed next: pure
//	overlay.go  the desired state with what the probes say
//
// A probe only ever changes the state of backends in the services' own resources, so what takes a backend out is an apply
// like any other. The kernel keeps it: whoever starts again goes on from what is observed there (Observed, Adopt).
package health

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/internal/probe"
)

// Key is one backend of one frontend.
type Key = compiler.HealthBackend

// Verdict is what is known about a backend.
type Verdict struct {
	Down bool
	// Since is when that began; zero where it was so before this process.
	Since time.Time
	// Reason is what the last probe said, "" if the backend answered it, or none was made yet.
	Reason string
}

// Verdicts are those of all probed backends.
type Verdicts map[Key]Verdict

// Prober probes backends from one namespace. Between probes a backend costs a timer, and no goroutine. All methods are safe
// for concurrent use.
type Prober struct {
	ns      probe.Namespace
	changed chan struct{}
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup // timers that are set, and probes that are made

	mu      sync.Mutex
	targets map[compiler.HealthTarget]*target
	adopted Verdicts
	probes  api.Controller
}

// target is what is asked for some backends.
type target struct {
	compiler.HealthProbe
	tally
	timer   *time.Timer
	stopped bool
	since   time.Time
	reason  string
}

// New returns a prober that probes nothing yet.
func New(ns probe.Namespace) *Prober {
	p := &Prober{probes: api.Controller{Name: "probe backends"}, ns: ns, changed: make(chan struct{}, 1), targets: map[compiler.HealthTarget]*target{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Adopt says what held before: backends that are new to Set start with it.
func (p *Prober) Adopt(v Verdicts) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.adopted = v
}

// Set says which backends are to be probed from now on. What is known of those that stay, also with other settings, is
// kept.
func (p *Prober) Set(probes []compiler.HealthProbe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	known := maps.Clone(p.adopted)
	if known == nil {
		known = Verdicts{}
	}
	maps.Copy(known, p.verdicts())
	p.adopted = nil
	old := p.targets
	p.targets = make(map[compiler.HealthTarget]*target, len(probes))
	for _, hp := range probes {
		t := old[hp.HealthTarget]
		delete(old, hp.HealthTarget)
		if t == nil {
			t = &target{}
			for _, k := range hp.Backends {
				if v := known[k]; v.Down {
					t.down, t.since, t.reason = true, v.Since, v.Reason
				}
			}
			// Somewhere in the first interval, so that backends that came together aren't probed together for ever.
			p.schedule(t, rand.N(hp.Interval))
		}
		t.HealthProbe = hp
		p.targets[hp.HealthTarget] = t
	}
	for _, t := range old {
		t.stopped = true
		if t.timer.Stop() {
			p.running.Done()
		}
	}
}

// Close ends all probing, for good.
func (p *Prober) Close() {
	p.cancel()
	p.Set(nil)
	p.running.Wait()
}

// Verdicts returns what is known now.
func (p *Prober) Verdicts() Verdicts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.verdicts()
}

func (p *Prober) verdicts() Verdicts {
	all := make(Verdicts, len(p.targets))
	for _, t := range p.targets {
		for _, k := range t.Backends {
			all[k] = Verdict{Down: t.down, Since: t.since, Reason: t.reason}
		}
	}
	return all
}

// Changed is told when a backend went down or came back.
func (p *Prober) Changed() <-chan struct{} { return p.changed }

// schedule has a target probed after some time.
func (p *Prober) schedule(t *target, after time.Duration) {
	p.running.Add(1)
	t.timer = time.AfterFunc(after, func() {
		defer p.running.Done()
		p.probe(t)
	})
}

// probe asks once, and sets the timer for the next time.
func (p *Prober) probe(t *target) {
	p.mu.Lock()
	s := t.HealthTarget
	p.mu.Unlock()
	ask := probe.Probe{Type: s.Type, Addr: s.At, Timeout: s.Timeout, HTTP: probe.HTTPRequest{Path: s.Path}}
	began := time.Now()
	err := ask.Run(p.ctx, p.ns)

	p.mu.Lock()
	defer p.mu.Unlock()
	if t.stopped {
		return
	}
	p.schedule(t, max(0, time.Until(began.Add(p.note(t, s, err)))))
}

// note counts the outcome of a probe. It returns how long after the beginning of this probe the next one begins.
func (p *Prober) note(t *target, settings compiler.HealthTarget, err error) (next time.Duration) {
	t.reason = ""
	p.probes.Note(err)
	if err != nil {
		t.reason = err.Error()
	}
	if _, told := errors.AsType[*probe.Unreachable](err); err != nil && !told {
		// The probe couldn't be made, which says nothing about the backend.
		return settings.Interval
	}
	if t.count(err == nil, settings) {
		t.since = time.Now()
		select {
		case p.changed <- struct{}{}:
		default:
		}
	}
	return t.next(settings)
}

// Controller is how often backends were probed, and how that went: an error is a backend that didn't answer.
func (p *Prober) Controller() api.Controller {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.probes
}
