package reconciler

import (
	"cmp"
	"fmt"
	"strings"

	"plumb.internal/plumb/reconciler/resource"
)

// ConflictError says that somebody else's objects are in the way. Nothing was touched.
type ConflictError struct{ Conflicts []resource.Conflict }

func (e *ConflictError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "somebody else's objects are in the way (%d), nothing was touched", len(e.Conflicts))
	for _, c := range e.Conflicts {
		fmt.Fprintf(&b, "\n  %s: %s (%s)", c.ID, c.Foreign, c.Owner)
		if c.Fix != "" {
			b.WriteString("; " + c.Fix)
		}
	}
	return b.String()
}

// DisruptionError says that a plan cuts pods, links or the operator's session, and that nobody allowed it.
type DisruptionError struct{ Changes []resource.Change }

func (e *DisruptionError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d changes disrupt and need --allow-disruption", len(e.Changes))
	for _, c := range e.Changes {
		fmt.Fprintf(&b, "\n  %s %s: %s", c.Action.Symbol(), c.ID, c.Disruption.Text())
	}
	return b.String()
}

// DeletionError says that a plan deletes suspiciously much because the files no longer name it.
type DeletionError struct{ Deleted, Owned int }

func (e *DeletionError) Error() string {
	return fmt.Sprintf("the files no longer name %d of the %d objects that plumb has on this host: deleting them needs --allow-delete",
		e.Deleted, e.Owned)
}

// StalePlanError says that a saved plan no longer fits.
type StalePlanError struct{ Differs []string }

func (e *StalePlanError) Error() string {
	return "the saved plan no longer fits: " + strings.Join(e.Differs, "; ") + "; plan again"
}

// LockedError says that another process works on the node.
type LockedError struct {
	Path string
	PID  int // 0 where the kernel doesn't say
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return "another process works on this node: it holds the lock " + e.Path
	}
	return fmt.Sprintf("process %d works on this node: it holds the lock %s", e.PID, e.Path)
}

// NotConvergedError says that an apply ran without an error and that the host still isn't as it should be.
type NotConvergedError struct{ Changes []resource.Change }

func (e *NotConvergedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "did not converge, %d changes remain", len(e.Changes))
	for _, c := range e.Changes {
		fmt.Fprintf(&b, "\n  %s %s", c.Action.Symbol(), c.ID)
		if c.Reason != "" {
			b.WriteString(" (" + c.Reason + ")")
		}
	}
	return b.String()
}

// ChangeError says that one change failed, and which others were skipped for it.
type ChangeError struct {
	ID      resource.ID
	Action  resource.Action // create, update or delete: a replace fails in one of its halves
	Err     error
	Skipped []resource.ID
}

func (e *ChangeError) Error() string {
	what := fmt.Sprintf("%s %s: ", e.Action, e.ID)
	s := what + strings.TrimPrefix(e.Err.Error(), what) // most kinds say it themselves
	for i, id := range e.Skipped {
		if i == 0 {
			s += "\n  skipped for it: "
		} else {
			s += ", "
		}
		s += id.String()
	}
	return s
}

// Unwrap gives the cause.
func (e *ChangeError) Unwrap() error { return e.Err }

// byText orders errors, so that what ran in parallel is told in one order.
func byText(a, b error) int { return cmp.Compare(a.Error(), b.Error()) }
