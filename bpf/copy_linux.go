package bpf

import (
	"errors"
	"reflect"

	"github.com/cilium/ebpf"
)

// Copy is the copy of a map's entries into another map of the same layout, whose programs may go on meanwhile: what they
// add may be missed, what they change may be old. With spare, entries that are there already are left alone. wrote is
// called before each call that writes, of which one may write many entries.
func Copy(to, from *ebpf.Map, spare bool, wrote func()) error {
	c := copier{from: from, to: to, wrote: wrote, spare: spare}
	return c.copy()
}

type copier struct {
	from, to     *ebpf.Map
	keys, values *turn // nil where both maps have the same layout
	wrote        func()
	spare        bool
}

func (c *copier) copy() error {
	if c.from.Type() == ebpf.Array {
		return c.elements()
	}
	return c.entries()
}

// slice makes room for n keys or values of a size that only the map knows.
func slice(n int, size uint32) reflect.Value {
	t := reflect.SliceOf(reflect.ArrayOf(int(size), reflect.TypeFor[byte]()))
	return reflect.MakeSlice(t, n, n)
}

// entries copies a hash table.
func (c *copier) entries() error {
	n := min(batch, int(c.from.MaxEntries()))
	keys, values := slice(n, c.from.KeySize()), slice(n, c.from.ValueSize())
	var cursor ebpf.MapBatchCursor
	for {
		got, err := c.from.BatchLookup(&cursor, keys.Interface(), values.Interface(), nil)
		if errors.Is(err, ebpf.ErrNotSupported) {
			return c.oneByOne()
		}
		done := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !done {
			return err
		}
		if got > 0 {
			if err := c.write(c.keys.all(keys.Slice(0, got)), c.values.all(values.Slice(0, got))); err != nil {
				return err
			}
		}
		if done {
			return nil
		}
	}
}

func (c *copier) write(keys, values reflect.Value) error {
	if !c.spare {
		c.wrote()
		_, err := c.to.BatchUpdate(keys.Interface(), values.Interface(), nil)
		if !errors.Is(err, ebpf.ErrNotSupported) {
			return err
		}
	}
	for i := range keys.Len() {
		if err := c.put(keys.Index(i).Addr().Interface(), values.Index(i).Addr().Interface()); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) oneByOne() error {
	keys, values := slice(1, c.from.KeySize()), slice(1, c.from.ValueSize())
	entries := c.from.Iterate()
	for entries.Next(keys.Index(0).Addr().Interface(), values.Index(0).Addr().Interface()) {
		k, v := c.keys.all(keys), c.values.all(values)
		if err := c.put(k.Index(0).Addr().Interface(), v.Index(0).Addr().Interface()); err != nil {
			return err
		}
	}
	return entries.Err()
}

func (c *copier) put(key, value any) error {
	flags := ebpf.UpdateAny
	if c.spare {
		// Asking first keeps a copy that has nothing to add from counting as a write.
		if there, err := c.to.LookupBytes(key); err != nil || there != nil {
			return err
		}
		flags = ebpf.UpdateNoExist
	}
	c.wrote()
	if err := c.to.Update(key, value, flags); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		return err
	}
	return nil
}

// elements copies an array, as much as fits. An element of nothing but zeros is what the new one has anyway.
func (c *copier) elements() error {
	values := slice(1, c.from.ValueSize())
	value := values.Index(0).Slice(0, int(c.from.ValueSize())).Bytes()
	for i := range min(c.from.MaxEntries(), c.to.MaxEntries()) {
		if err := c.from.Lookup(i, value); err != nil {
			return err
		}
		empty := true
		for _, b := range value {
			if b != 0 {
				empty = false
				break
			}
		}
		if empty {
			continue
		}
		c.wrote()
		if err := c.to.Put(i, c.values.all(values).Index(0).Addr().Interface()); err != nil {
			return err
		}
	}
	return nil
}
