package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// batch is how many entries are read in one call. No bucket of a hash table holds more, which would be an error.
const batch = 4096

// Each visits every entry of a map, in no order: many a call where the kernel can (5.6), else one by one.
func Each[K, V any](m *ebpf.Map, visit func(K, V)) error {
	var cursor ebpf.MapBatchCursor
	size := min(batch, int(m.MaxEntries()))
	keys, values := make([]K, size), make([]V, size)
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		if errors.Is(err, ebpf.ErrNotSupported) {
			return oneByOne(m, visit)
		}
		done := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !done {
			return fmt.Errorf("read the entries: %w", err)
		}
		for i := range n {
			visit(keys[i], values[i])
		}
		if done {
			return nil
		}
	}
}

func oneByOne[K, V any](m *ebpf.Map, visit func(K, V)) error {
	var (
		k K
		v V
	)
	entries := m.Iterate()
	for entries.Next(&k, &v) {
		visit(k, v)
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("read the entries: %w", err)
	}
	return nil
}
