// Package api is how the daemon is asked, and told: JSON over HTTP on a Unix socket in the node's run folder.
//
//	status.go  what the daemon says of itself
//	server.go  the socket, and who may use it
//	client.go  the commands' side
//
//	curl --unix-socket /run/plumb/NODE/api.sock http://plumb/v1/status
//
// Root may connect, and one group; whoever may connect may do all of it.
package api

import (
	"time"

	"plumb.internal/plumb/reconciler/resource"
)

// The states of a node that a daemon looks after, from good to bad.
const (
	Converged = "converged" // the machine is as the files say
	Starting  = "starting"
	Waiting   = "waiting"   // a change of the files waits for a flag; what was before is in force
	Suspended = "suspended" // nothing is done until somebody resumes
	Degraded  = "degraded"  // some objects aren't as they should be, or the files can't be used
)

// Status is what a daemon says of itself.
type Status struct {
	FormatVersion string    `json:"format_version"`
	Node          string    `json:"node"`
	PID           int       `json:"pid"`
	Version       string    `json:"version"`
	Started       time.Time `json:"started"`
	State         string    `json:"state"`
	Reason        string    `json:"reason"` // of a state other than converged, in one line

	// InForce is what the machine is kept at; nil where there is nothing yet.
	InForce *InForce `json:"in_force"`
	// Source says what is wrong with the files; nil where they can be used.
	Source *Problem `json:"source"`
	// Pending is a change of the files that waits; nil where none does.
	Pending   *Pending            `json:"pending"`
	Suspended *Suspension         `json:"suspended"`
	Failing   []Failing           `json:"failing"`
	Conflicts []resource.Conflict `json:"conflicts"`
	// Drift are the latest changes by others that were undone, the newest first.
	Drift    []Drift  `json:"drift"`
	Warnings []string `json:"warnings"`
	Cycles   Cycles   `json:"cycles"`
	// Controllers are what the daemon does again and again.
	Controllers []Controller `json:"controllers"`
}

// Controller is something that the daemon does again and again, and how that went.
type Controller struct {
	Name      string    `json:"name"`
	Runs      int       `json:"runs"`
	Errors    int       `json:"errors"`
	Succeeded time.Time `json:"last_success,omitzero"`
	Failed    time.Time `json:"last_error,omitzero"`
	Error     string    `json:"error"` // of the last time that it failed
}

// Note counts one time.
func (c *Controller) Note(err error) {
	c.Runs++
	if err == nil {
		c.Succeeded = time.Now().UTC()
		return
	}
	c.Errors++
	c.Failed, c.Error = time.Now().UTC(), err.Error()
}

// InForce is the configuration that is kept true.
type InForce struct {
	Revision int       `json:"revision"` // 0 as long as it hasn't been verified as a whole
	Digest   string    `json:"digest"`
	From     string    `json:"from"` // "files" or "revision N"
	Since    time.Time `json:"since"`
	Objects  int       `json:"objects"`
}

// Problem is something wrong, and since when.
type Problem struct {
	Error string    `json:"error"` // with file:line:col where there is one
	Since time.Time `json:"since"`
}

// Pending is a change that isn't made.
type Pending struct {
	Needs   []string         `json:"needs"` // flags; none for a conflict
	Reason  string           `json:"reason"`
	Since   time.Time        `json:"since"`
	Summary resource.Summary `json:"summary"`
}

// Suspension says that nothing is to be done.
type Suspension struct {
	Since  time.Time `json:"since"`
	Reason string    `json:"reason"`
}

// Failing is an object that can't be made what it should be.
type Failing struct {
	ID    resource.ID `json:"id"`
	Error string      `json:"error"`
	Since time.Time   `json:"since"`
	Tries int         `json:"tries"`
	Next  time.Time   `json:"next"`
}

// Drift is one change by others that was undone.
type Drift struct {
	ID     resource.ID     `json:"id"`
	Action resource.Action `json:"action"` // of plumb's
	What   string          `json:"what"`
	Since  time.Time       `json:"since"` // when the kernel told of it, or was last seen as it should be
	By     string          `json:"by"`    // "" where the kernel doesn't say
	Healed time.Time       `json:"healed"`
}

// Cycles counts what the daemon did.
type Cycles struct {
	Total   int       `json:"total"`
	Last    time.Time `json:"last"`
	Changed time.Time `json:"changed"` // when something was last written
}
