package resource

import (
	"fmt"
	"maps"
	"slices"
)

// State is a set of resources, desired or observed.
type State map[ID]Resource

// Add puts r into the state; two resources of one ID are a mistake of the caller's.
func (s State) Add(rs ...Resource) error {
	for _, r := range rs {
		id, before := r.ID(), len(s)
		old := s[id]
		if s[id] = r; len(s) == before {
			return fmt.Errorf("two resources are %s (from %s and %s)", id, old.Origin(), r.Origin())
		}
	}
	return nil
}

// IDs returns the IDs in order.
func (s State) IDs() []ID { return slices.SortedFunc(maps.Keys(s), ID.Compare) }

// Where returns the IDs of the resources that pick says, in order. Of a large state that is much faster than all of IDs.
func (s State) Where(pick func(Resource) bool) []ID {
	var ids []ID
	for id, r := range s {
		if pick(r) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, ID.Compare)
	return ids
}
