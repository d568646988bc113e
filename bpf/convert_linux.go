package bpf

import (
	"errors"
	"fmt"
	"reflect"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// ErrForeign says that the entries of a map of another version can't be turned into those of this one.
var ErrForeign = errors.New("its entries can't be told apart")

// Convert is Copy from a map of another version of a layout, older or younger: the kernel keeps the types that a map was made
// with, and fields are known by their names. One that only the old map has is left out, one that only the new one has is 0,
// and so a field whose meaning changes has to get another name. The error wraps ErrForeign where a field has another size, or
// the kernel knows nothing of the map.
func Convert(to *ebpf.Map, base string, from *ebpf.Map, spare bool, wrote func()) error {
	keys, values, err := turns(base, from)
	if err != nil {
		return err
	}
	c := copier{from: from, to: to, keys: keys, values: values, wrote: wrote, spare: spare}
	return c.copy()
}

// Convertible says why Convert couldn't take over what is in a map; nil if it can.
func Convertible(base string, from *ebpf.Map) error {
	_, _, err := turns(base, from)
	return err
}

// turns finds out how entries of the present layout are made of those of a map.
func turns(base string, from *ebpf.Map) (keys, values *turn, err error) {
	spec, err := mapSpec(base, 1)
	if err != nil {
		return nil, nil, err
	}
	if from.Type() != spec.Type {
		return nil, nil, fmt.Errorf("%w: it is of type %v", ErrForeign, from.Type())
	}
	h, err := from.Handle()
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	defer h.Close()
	types, err := h.Spec(nil)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	if keys, err = turning(types, spec.Key, from.KeySize()); err == nil {
		values, err = turning(types, spec.Value, from.ValueSize())
	}
	return keys, values, err
}

// turn makes keys or values of one layout of those of another.
type turn struct {
	size   uint32 // bytes that come of it
	pieces []piece
}

// piece is bytes that are moved as they are.
type piece struct{ from, to, size uint32 }

// turning finds out how entries of type to are made of those that a map of other types has, of from bytes each.
func turning(types *btf.Spec, to btf.Type, from uint32) (*turn, error) {
	size, err := btf.Sizeof(to)
	if err != nil {
		return nil, err
	}
	t := &turn{size: uint32(size)}
	s, ok := btf.UnderlyingType(to).(*btf.Struct)
	if !ok {
		if t.size != from {
			return nil, fmt.Errorf("%w: %s has %d bytes, not %d", ErrForeign, to.TypeName(), from, t.size)
		}
		t.pieces = []piece{{0, 0, from}}
		return t, nil
	}
	var old *btf.Struct
	if err := types.TypeByName(s.Name, &old); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrForeign, err)
	}
	if old.Size != from {
		return nil, fmt.Errorf("%w: struct %s has %d bytes, its entries %d", ErrForeign, s.Name, old.Size, from)
	}
	return t, t.fields(old, s, 0, 0)
}

// fields moves those of one struct to those of another, which are at some place in the entries.
func (t *turn) fields(from, to *btf.Struct, fromAt, toAt uint32) error {
	for _, m := range to.Members {
		for _, o := range from.Members {
			if o.Name != m.Name || m.Name == "pad" {
				continue
			}
			a, b := fromAt+o.Offset.Bytes(), toAt+m.Offset.Bytes()
			inner, ok := btf.UnderlyingType(m.Type).(*btf.Struct)
			if was, both := btf.UnderlyingType(o.Type).(*btf.Struct); ok && both {
				if err := t.fields(was, inner, a, b); err != nil {
					return err
				}
				continue
			}
			size, err := btf.Sizeof(m.Type)
			if err != nil {
				return err
			}
			if was, err := btf.Sizeof(o.Type); err != nil || was != size {
				return fmt.Errorf("%w: field %s of struct %s has %d bytes, not %d", ErrForeign, m.Name, to.Name, was, size)
			}
			t.pieces = append(t.pieces, piece{a, b, uint32(size)})
		}
	}
	return nil
}

// all turns a slice of arrays; without a turn they stay what they are.
func (t *turn) all(from reflect.Value) reflect.Value {
	if t == nil {
		return from
	}
	to := slice(from.Len(), t.size)
	for i := range from.Len() {
		a, b := from.Index(i).Slice(0, from.Index(i).Len()).Bytes(), to.Index(i).Slice(0, int(t.size)).Bytes()
		for _, p := range t.pieces {
			copy(b[p.to:p.to+p.size], a[p.from:])
		}
	}
	return to
}
