package daemon

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/schema"
)

// Status is what the daemon says of itself.
func (d *Daemon) Status() api.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.status
	s.Suspended = d.suspended
	s.Controllers = d.ran.all(d.probing)
	return s
}

// InForce is what the node is kept at, with the fleet's nodes; nil where there is nothing yet.
func (d *Daemon) InForce() (*compiler.Compiled, map[string]schema.Node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.compiled, d.nodes
}

// publish brings the status up to date after a cycle.
func (d *Daemon) publish(began time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.probing = d.prober
	s := &d.status
	s.FormatVersion, s.Node, s.PID, s.Version = "1", d.Node, os.Getpid(), d.Version
	s.Failing = d.backoff.status()
	s.Conflicts = append([]resource.Conflict{}, d.conflicts...)
	s.Warnings = []string{}
	s.InForce, s.Pending = nil, nil
	d.compiled, d.nodes = nil, nil
	if v := d.inForce; v != nil {
		d.compiled, d.nodes = v.compiled, v.nodes
		s.InForce = &api.InForce{Revision: v.revision, Digest: v.digest, From: v.from, Since: v.since, Objects: len(v.compiled.State)}
		s.Warnings = append(s.Warnings, v.compiled.Warnings...)
		for _, f := range d.unanswered {
			s.Warnings = append(s.Warnings, fmt.Sprintf("no backend of %s answers its probes: all are used", f))
		}
	}
	for _, what := range slices.Sorted(maps.Keys(d.errors)) {
		s.Warnings = append(s.Warnings, what+": "+d.errors[what])
	}
	if err := d.files.Trouble(); err != nil {
		s.Warnings = append(s.Warnings, err.Error())
	}
	if v := d.candidate; v != nil && v.refused != nil {
		s.Pending = &api.Pending{Needs: needs(v.refused), Reason: v.refused.Error(), Since: v.since, Summary: v.summary}
	}
	s.Cycles.Total++
	s.Cycles.Last = began.UTC()
	s.State, s.Reason = d.state()
	s.Drift = append([]api.Drift{}, s.Drift...)
	d.metrics.state(*s)
	d.Notify("STATUS=" + strings.TrimSuffix(fmt.Sprintf("%s: %s", s.State, firstLine(s.Reason)), ": "))
}

// state is the state in one word, and why it isn't better.
func (d *Daemon) state() (state, reason string) {
	s := d.status
	switch {
	case d.suspended != nil:
		return api.Suspended, d.suspended.Reason
	case d.waits != "":
		return api.Waiting, d.waits
	case len(s.Failing) > 0:
		return api.Degraded, fmt.Sprintf("%d objects can't be made what they should be, the first: %s", len(s.Failing), s.Failing[0].Error)
	case len(s.Conflicts) > 0:
		return api.Degraded, fmt.Sprintf("somebody else's objects are in the way of %d, the first: %s", len(s.Conflicts), s.Conflicts[0].ID)
	case s.Source != nil:
		return api.Degraded, "the files can't be used: " + s.Source.Error
	case s.Pending != nil:
		return api.Waiting, s.Pending.Reason
	case d.inForce == nil:
		return api.Waiting, "nothing is in force yet"
	}
	return api.Converged, ""
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
