package bpfprog

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Describe implements resource.Describer: "from_pod.0123456789ab, redirect 1, source_check 1".
func (p Program) Describe() string {
	parts := []string{p.ID().Name}
	for _, k := range slices.Sorted(maps.Keys(p.Settings)) {
		parts = append(parts, fmt.Sprintf("%s %d", k, p.Settings[k]))
	}
	return strings.Join(parts, ", ")
}
