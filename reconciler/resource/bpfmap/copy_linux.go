package bpfmap

import (
	"errors"
	"fmt"
	"io/fs"
	"reflect"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
)

// batch is how many entries are moved in one call.
const batch = 4096

// copyTo copies the entries of pinned map o into map to, which is or becomes m. With spare, entries that are there already
// are left alone.
func copyTo(h *host.Host, to *ebpf.Map, m, o Map, spare bool) error {
	from, err := open(h, o)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil // not what its name says: nothing in it can be believed
	}
	defer from.Close()
	c := copier{h: h, from: from, to: to, what: fmt.Sprintf("copy entries of %s to %s", o.ID(), m.ID()), spare: spare}
	if from.Type() == ebpf.Array {
		err = c.elements()
	} else {
		err = c.entries()
	}
	switch {
	case errors.Is(err, unix.E2BIG):
		return fmt.Errorf("the %d entries of the new map don't hold what is in %s: set a larger tuning.maps, "+
			"or apply first what needs less: %w", m.Entries, o.ID(), err)
	case err != nil:
		return fmt.Errorf("%s: %w", c.what, err)
	}
	return nil
}

type copier struct {
	h        *host.Host
	from, to *ebpf.Map
	what     string
	spare    bool
}

// slice makes room for n keys or values of a size that only the map knows.
func slice(n int, size uint32) reflect.Value {
	t := reflect.SliceOf(reflect.ArrayOf(int(size), reflect.TypeFor[byte]()))
	return reflect.MakeSlice(t, n, n)
}

// entries copies a hash table, whose programs go on meanwhile: what they add may be missed, what they change may be old.
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
			if err := c.write(keys.Slice(0, got), values.Slice(0, got)); err != nil {
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
		c.h.Wrote("%s", c.what)
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
	key, value := slice(1, c.from.KeySize()).Index(0).Addr().Interface(), slice(1, c.from.ValueSize()).Index(0).Addr().Interface()
	entries := c.from.Iterate()
	for entries.Next(key, value) {
		if err := c.put(key, value); err != nil {
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
	c.h.Wrote("%s", c.what)
	if err := c.to.Update(key, value, flags); err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		return err
	}
	return nil
}

// elements copies an array, as much as fits. An element of nothing but zeros is what the new one has anyway.
func (c *copier) elements() error {
	value := make([]byte, c.from.ValueSize())
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
		c.h.Wrote("%s", c.what)
		if err := c.to.Put(i, value); err != nil {
			return err
		}
	}
	return nil
}
