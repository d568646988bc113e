package reconciler

import (
	"encoding/json"
	"fmt"

	"github.com/hashicorp/go-multierror"

	"plumb.internal/plumb/reconciler/resource"
)

// recordFormat is the version of the form of a recorded state.
const recordFormat = "1"

// recorded is a state on disk.
type recorded struct {
	FormatVersion string        `json:"format_version"`
	Objects       []savedObject `json:"objects"`
}

// Record puts what was observed into bytes, as a state that may be desired: to bring a host back is to apply it. It says
// all that a person or a program can see of our objects but what only the running kernel knows, and of programs their
// names: those have to stay pinned for as long as the record is of use. What is to be recorded is observed with nothing
// desired: else settings that plumb has never changed would be among it.
func Record(o *Observed) ([]byte, error) {
	state := resource.Restored(o.All())
	r := recorded{recordFormat, []savedObject{}}
	for _, id := range state.IDs() {
		object, err := json.Marshal(state[id])
		if err != nil {
			return nil, fmt.Errorf("record %s: %w", id, err)
		}
		r.Objects = append(r.Objects, savedObject{id, object})
	}
	return json.Marshal(r)
}

// Recorded is the state that Record put into bytes.
func Recorded(data []byte) (resource.State, error) { return kinds.recorded(data) }

func (t table) recorded(data []byte) (resource.State, error) {
	var r recorded
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("read the recorded state: %w", err)
	}
	if r.FormatVersion != recordFormat {
		return nil, fmt.Errorf("read the recorded state: it has format %q, this plumb reads %q", r.FormatVersion, recordFormat)
	}
	state := make(resource.State, len(r.Objects))
	var errs *multierror.Error
	for _, o := range r.Objects {
		k, ok := t[o.ID.Kind]
		if !ok {
			errs = multierror.Append(errs, fmt.Errorf("%s: no such kind of object", o.ID))
			continue
		}
		object, err := k.decode(o.Object)
		if err == nil && object.ID() != o.ID {
			err = fmt.Errorf("it is %s", object.ID())
		}
		if err == nil {
			err = state.Add(object)
		}
		if err != nil {
			errs = multierror.Append(errs, fmt.Errorf("%s: %w", o.ID, err))
		}
	}
	if err := errs.ErrorOrNil(); err != nil {
		return nil, fmt.Errorf("read the recorded state: %w", err)
	}
	return state, nil
}
