package reconciler

import (
	"runtime"
	"sync"

	"plumb.internal/plumb/reconciler/resource"
)

// difference is how an object isn't as desired.
type difference struct {
	fields  []resource.Field
	inPlace bool
}

// differences compares all objects with what is observed under their own IDs, where that wasn't done by who looked. With
// many thousands every processor takes a part.
func (t table) differences(w *wanted, o *Observed) map[resource.ID]difference {
	type result struct {
		id resource.ID
		difference
	}
	var suspects []resource.Resource
	for kind, rs := range w.of {
		m, ok := o.matched[kind]
		if !ok {
			suspects = append(suspects, rs...)
			continue
		}
		all := o.wanted.of[kind]
		for _, i := range m.others {
			suspects = append(suspects, all[i])
		}
	}
	parts := make([][]result, runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for i := range parts {
		wg.Go(func() {
			for _, r := range suspects[i*len(suspects)/len(parts) : (i+1)*len(suspects)/len(parts)] {
				id := r.ID()
				observed, ok := o.Owned[id]
				if !ok {
					parts[i] = append(parts[i], result{id: id})
				} else if fields, inPlace := t[id.Kind].diff(observed, r); len(fields) > 0 {
					parts[i] = append(parts[i], result{id, difference{fields, inPlace}})
				}
			}
		})
	}
	wg.Wait()
	n := 0
	for _, part := range parts {
		n += len(part)
	}
	all := make(map[resource.ID]difference, n)
	for _, part := range parts {
		for _, r := range part {
			all[r.id] = r.difference
		}
	}
	return all
}
