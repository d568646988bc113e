package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/go-multierror"
)

// The exit codes of commands. Scripts rely on them.
const (
	ExitError    = 1
	ExitChanges  = 2 // plan --detailed-exitcode: there are changes; status: drifted
	ExitConflict = 3
	ExitRefused  = 4 // needs a flag or a yes, or the plan is stale
	ExitReverted = 5 // apply --confirm: taken back
)

// Exit is an error with an exit code of its own. Err may be nil: everything has been said already.
type Exit struct {
	Code int
	Err  error
}

// Error implements error.
func (e *Exit) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap implements the error chain.
func (e *Exit) Unwrap() error { return e.Err }

// Report prints what went wrong and returns the exit code. Mistakes in the user's files stand on lines of their own that
// start with file:line:col, for editors.
func Report(w io.Writer, err error) int {
	if err == nil {
		return 0
	}
	code := ExitError
	var exit *Exit
	if errors.As(err, &exit) {
		code = exit.Code
		if exit.Err == nil {
			return code
		}
	}
	if many(err) {
		fmt.Fprintln(w, err)
	} else {
		fmt.Fprintln(w, "plumb:", err)
	}
	return code
}

// many reports whether err is several errors, and has them printed one a line.
func many(err error) bool {
	var all *multierror.Error
	if !errors.As(err, &all) {
		return false
	}
	if all.ErrorFormat == nil {
		all.ErrorFormat = lines
	}
	return true
}
