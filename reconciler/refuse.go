package reconciler

import "plumb.internal/plumb/reconciler/resource"

// Allowed is what a person has allowed an apply to do.
type Allowed struct {
	Disruption bool // --allow-disruption
	Delete     bool // --allow-delete
}

// guardFloor is the number of deletes below which nobody is asked: a small host changes wholly now and then.
const guardFloor = 10

// Refuse says why a plan must not be applied: conflicts (*ConflictError), too much that the files no longer name
// (*DeletionError), or cuts that nobody allowed (*DisruptionError). It is nil where nothing speaks against it.
func Refuse(p *resource.Plan, o *Observed, allowed Allowed) error {
	if len(p.Conflicts) > 0 {
		return &ConflictError{p.Conflicts}
	}
	if !allowed.Delete {
		deleted, owned := 0, 0
		for _, c := range p.Changes {
			deleted += c.Dropped
		}
		if deleted >= guardFloor {
			for _, r := range o.All() {
				owned += worth(r)
			}
			if 2*deleted > owned {
				return &DeletionError{Deleted: deleted, Owned: owned}
			}
		}
	}
	if cuts := p.NeedsDisruption(); len(cuts) > 0 && !allowed.Disruption {
		return &DisruptionError{cuts}
	}
	return nil
}
