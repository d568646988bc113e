package service

import (
	"slices"
	"strings"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/reconciler/resource"
)

// Restored implements resource.Restorer: what of the entries made a service. The maps of Maglev tables are among its maps
// if it has one.
func (s Service) Restored(found *resource.Found) resource.Resource {
	if s.Leftover != "" {
		return nil
	}
	r := Service{Frontend: s.Frontend, Maps: s.Maps, From: s.From}
	if s.Algorithm != resource.Maglev {
		return r
	}
	array := bpf.MaglevMap(bpf.MaglevClass(s.TableSize)) + "."
	for _, id := range found.IDs("bpfmap") {
		if strings.HasPrefix(id.Name, array) && !slices.Contains(r.Maps, id) {
			r.Maps = append(slices.Clip(r.Maps), id)
		}
	}
	return r
}
