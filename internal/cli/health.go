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

// keepHealth makes the backends that a daemon has found down part of what should be: they come back by its probes. Where
// no daemon runs nobody would bring them back, so they are used again.
func (s *session) keepHealth(owned resource.State) {
	down := health.Observed(owned).Of(s.compiled.Health)
	if len(down) > 0 && s.daemonRuns() {
		s.compiled.State = health.Overlay(s.compiled.State, down)
	}
}
