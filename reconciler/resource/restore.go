package resource

// Restorer is a resource that an observation describes otherwise than the files would: it tells of faults, or leaves out what
// the kernel doesn't keep. A resource without it is as an observation describes it.
type Restorer interface {
	// Restored returns the resource as the files would ask for it, were the host to become again as it was found; nil
	// where there is nothing to bring back.
	Restored(found *Found) Resource
}

// Found is a whole observation, for what resources know of each other.
type Found struct {
	State State
	kinds map[Kind][]ID
	links map[Device]ID
	on    map[Device][]ID
}

// NewFound is an observation by devices.
func NewFound(s State) *Found {
	f := &Found{State: s, kinds: map[Kind][]ID{}, links: map[Device]ID{}, on: map[Device][]ID{}}
	for _, id := range s.IDs() {
		f.kinds[id.Kind] = append(f.kinds[id.Kind], id)
		switch r := s[id].(type) {
		case Maker:
			for _, d := range r.Devices() {
				f.links[d] = id
			}
		case Sitter:
			f.on[r.Device()] = append(f.on[r.Device()], id)
		}
	}
	return f
}

// IDs lists the resources of a kind, in order.
func (f *Found) IDs(kind Kind) []ID { return f.kinds[kind] }

// Link is the resource that made a device, or the zero ID for somebody else's.
func (f *Found) Link(d Device) ID { return f.links[d] }

// On lists the resources of a kind that sit on a device, in order.
func (f *Found) On(d Device, kind Kind) (ids []ID) {
	for _, id := range f.on[d] {
		if id.Kind == kind {
			ids = append(ids, id)
		}
	}
	return ids
}

// Restored returns what was observed as a desired state.
func Restored(observed State) State {
	f := NewFound(observed)
	desired := make(State, len(observed))
	for id, r := range observed {
		if o, ok := r.(Restorer); ok {
			if r = o.Restored(f); r == nil {
				continue
			}
		}
		desired[id] = r
	}
	return desired
}
