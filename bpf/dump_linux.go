package bpf

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
)

// dumpChunk is how many entries one call asks for.
const dumpChunk = 8192

// Dump reads all entries of a hash map, keys and values side by side, many in a call where the kernel can (5.6). K and V
// have the sizes of the map's. Of a map that changes meanwhile entries may be missing.
func Dump[K, V any](m *ebpf.Map) (keys []K, values []V, err error) {
	keys, values, err = DumpBatch[K, V](m)
	if errors.Is(err, ebpf.ErrNotSupported) {
		keys, values, err = DumpEach[K, V](m)
	}
	return keys, values, err
}

// DumpBatch is Dump by batches. The error wraps ebpf.ErrNotSupported where the kernel has none.
func DumpBatch[K, V any](m *ebpf.Map) (keys []K, values []V, err error) {
	var cursor ebpf.MapBatchCursor
	chunk := min(dumpChunk, int(m.MaxEntries()))
	for {
		n := len(keys)
		keys, values = slices.Grow(keys, chunk), slices.Grow(values, chunk)
		got, err := m.BatchLookup(&cursor, keys[n:n+chunk], values[n:n+chunk], nil)
		switch {
		case errors.Is(err, ebpf.ErrKeyNotExist):
			return keys[:n+got], values[:n+got], nil
		case err != nil:
			return nil, nil, fmt.Errorf("read a map by batches: %w", err)
		}
		keys, values = keys[:n+got], values[:n+got]
	}
}

// DumpEach is Dump entry by entry.
func DumpEach[K, V any](m *ebpf.Map) (keys []K, values []V, err error) {
	var (
		k K
		v V
	)
	it := m.Iterate()
	for it.Next(&k, &v) {
		keys, values = append(keys, k), append(values, v)
	}
	// A map of which entries go while they are read may never come to an end.
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return nil, nil, fmt.Errorf("read a map: %w", err)
	}
	return keys, values, nil
}
