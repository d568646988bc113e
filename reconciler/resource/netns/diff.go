package netns

import (
	"fmt"

	"plumb.internal/plumb/reconciler/resource"
)

// Ops implement the kind's operations.
type Ops struct{}

// halfMade is the fault of a namespace of which there is only the record.
const halfMade = "half made"

// Diff lists what differs. A fault is mended in place; another place is another namespace.
func (Ops) Diff(observed, desired NetNS) (fields []resource.Field, inPlace bool) {
	inPlace = true
	if observed.Path != desired.Path {
		fields = append(fields, resource.Field{Name: "path", Before: observed.Path, After: desired.Path})
		inPlace = false
	}
	if observed.Faults != desired.Faults {
		fields = append(fields, resource.Field{Name: "state", Before: observed.Faults, After: "as plumb makes it"})
	}
	return fields, inPlace
}

// Conflicts names the namespaces of other owners that have the name of a pod.
func (Ops) Conflicts(desired resource.State, foreign []NetNS) []resource.Conflict {
	var conflicts []resource.Conflict
	for _, f := range foreign {
		want, ok := desired[f.ID()].(NetNS)
		if !ok {
			continue
		}
		c := resource.Conflict{ID: f.ID(), Foreign: "netns " + f.Describe(), Owner: f.Owner,
			Fix: fmt.Sprintf("remove it (ip netns del %s), or give the pod another name", f.Name)}
		if want.Path != "" {
			c.Fix = "name another namespace in pods." + f.Name + ".netns"
		}
		conflicts = append(conflicts, c)
	}
	return conflicts
}
