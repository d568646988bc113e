package cli

import (
	"net"

	"plumb.internal/plumb/internal/health"
	"plumb.internal/plumb/reconciler/resource"
)

// apiSocket is where a daemon of the node listens, in its run folder.
const apiSocket = "api.sock"

// daemonRuns reports whether a daemon of this node is at work.
func (s *session) daemonRuns() bool {
	c, err := net.Dial("unix", s.host.Path(apiSocket))
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// unprobed warns of services whose backends nobody probes.
func (s *session) unprobed() []string {
	if len(s.compiled.Health) == 0 || s.daemonRuns() {
		return nil
	}
	return []string{"services have health, and nobody probes their backends: plumb run does, and doesn't run for this node"}
}

// keepHealth makes the backends that a daemon has found down part of what should be: they come back by its probes. Where
// no daemon runs nobody would bring them back, so they are used again.
func (s *session) keepHealth(owned resource.State) {
	down := health.Observed(owned).Of(s.compiled.Health)
	if len(down) > 0 && s.daemonRuns() {
		s.compiled.State = health.Overlay(s.compiled.State, down)
	}
}
