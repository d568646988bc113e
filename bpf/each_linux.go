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
	var b *Batch[K, V]
	fresh := func() *Batch[K, V] {
		if b == nil {
			b = NewBatch[K, V](min(batch, int(m.MaxEntries())))
		}
		return b
	}
	return Batches(m, fresh, func(b *Batch[K, V]) {
		for i := range b.N {
			visit(b.Keys[i], b.Values[i])
		}
	})
}

// Batch is room for entries of a map, of which the first N are read.
type Batch[K, V any] struct {
	Keys   []K
	Values []V
	N      int
}

// NewBatch makes room for so many entries, or for as many as are read in one call if n is 0.
func NewBatch[K, V any](n int) *Batch[K, V] {
	if n == 0 {
		n = batch
	}
	return &Batch[K, V]{Keys: make([]K, n), Values: make([]V, n)}
}

// Batches reads every entry of a map, in no order, each batch into what fresh returns, and hands it to take, which may keep it.
func Batches[K, V any](m *ebpf.Map, fresh func() *Batch[K, V], take func(*Batch[K, V])) error {
	var cursor ebpf.MapBatchCursor
	for {
		b := fresh()
		n, err := m.BatchLookup(&cursor, b.Keys, b.Values, nil)
		if errors.Is(err, ebpf.ErrNotSupported) {
			return oneByOne(m, b, fresh, take)
		}
		done := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !done {
			return fmt.Errorf("read the entries: %w", err)
		}
		b.N = n
		take(b)
		if done {
			return nil
		}
	}
}

func oneByOne[K, V any](m *ebpf.Map, b *Batch[K, V], fresh func() *Batch[K, V], take func(*Batch[K, V])) error {
	b.N = 0
	entries := m.Iterate()
	for entries.Next(&b.Keys[b.N], &b.Values[b.N]) {
		if b.N++; b.N == len(b.Keys) {
			take(b)
			b = fresh()
			b.N = 0
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("read the entries: %w", err)
	}
	take(b)
	return nil
}
