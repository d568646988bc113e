package daemon

import (
	"strings"
	"time"

	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/internal/watch"
	"plumb.internal/plumb/reconciler/resource"
)

// driftKept is how many changes by others the status tells of.
const driftKept = 20

// tell logs what a plan is about to change. What differs though the node was found right before, with the same
// configuration, is drift: somebody changed it.
func (d *Daemon) tell(p *resource.Plan, skip map[resource.ID]bool, heard watch.Events) {
	if s := p.Summary(); len(p.Changes) > oneByOne {
		d.Log.Info("changes", "create", s.Create, "update", s.Update, "replace", s.Replace, "delete", s.Delete, "from", d.inForce.from)
	}
	var drift []api.Drift
	now := time.Now().UTC()
	for _, c := range p.Changes {
		if skip[c.ID] || d.backoff[c.ID] != nil {
			continue
		}
		what := c.Action.Symbol() + " " + c.ID.String()
		if !d.inForce.verified || d.expected[c.ID] {
			if len(p.Changes) <= oneByOne {
				d.Log.Info("change", "what", what, "reason", c.Reason)
			}
			continue
		}
		since, by := cause(c, heard)
		if since.IsZero() {
			since = d.whole.UTC()
		}
		d.metrics.drifted(c)
		if len(p.Changes) <= oneByOne {
			says := []any{"what", what, "reason", c.Reason, "since", since}
			if by != "" {
				says = append(says, "by", by)
			}
			d.Log.Warn("drift", says...)
		}
		if len(drift) < driftKept {
			drift = append(drift, api.Drift{ID: c.ID, Action: c.Action, What: c.Reason, Since: since, By: by, Healed: now})
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status.Drift = append(drift, d.status.Drift...)
	d.status.Drift = d.status.Drift[:min(len(d.status.Drift), driftKept)]
}

// cause finds the event that an object's drift began with: of the same namespace and kind and, where the event names
// something, of that name.
func cause(c resource.Change, heard watch.Events) (since time.Time, by string) {
	for _, e := range heard.List {
		if e.NetNS != c.ID.NetNS || e.Kind != c.ID.Kind || !names(c.ID.Name, e.Name) {
			continue
		}
		if since.IsZero() {
			since = e.At.UTC()
		}
		if e.By != "" {
			by = e.By
		}
	}
	return since, by
}

// names reports whether an object's name has an address, a destination or a device in it; 10.0.0.1 isn't in 10.0.0.10.
func names(object, name string) bool {
	i := strings.Index(object, name)
	if i < 0 || name == "" || name == "default" { // whose objects are default and default6
		return i >= 0
	}
	part := func(s string) bool { return s != "" && strings.Contains("0123456789abcdef.:", s) }
	before, after := object[:i], object[i+len(name):]
	return !part(before[max(len(before)-1, 0):]) && !part(after[:min(len(after), 1)])
}
