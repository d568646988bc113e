package cli

import (
	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/internal/health"
	"plumb.internal/plumb/reconciler/resource"
)

// unprobed warns of services whose backends nobody probes.
func (s *session) unprobed() []string {
	if len(s.compiled.Health) == 0 || api.Running(s.host.RunDir) {
		return nil
	}
	return []string{"services have health, and nobody probes their backends: plumb run does, and doesn't run for this node"}
}

// keepHealth makes the backends that a daemon has found down part of what should be: they come back by its probes. Where
// no daemon runs nobody would bring them back, so they are used again.
func (s *session) keepHealth(owned resource.State) {
	down := health.Observed(owned).Of(s.compiled.Health)
	if len(down) > 0 && api.Running(s.host.RunDir) {
		s.compiled.State = health.Overlay(s.compiled.State, down)
	}
}
