package bpf

import (
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/internal/memlock"
)

// Both ways to read a map see every entry once, however many there are.
func TestEach(t *testing.T) {
	kindtest.NeedRoot(t)
	_ = memlock.Lift() // NewMap below is the library's own
	for _, entries := range []uint32{0, 1, batch, 2*batch + 1} {
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 16, ValueSize: 20, MaxEntries: max(1, entries), Flags: unix.BPF_F_NO_PREALLOC})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		for i := range entries {
			if err := m.Put(Address{0: byte(i), 1: byte(i >> 8)}, Endpoint{Ifindex: i}); err != nil {
				t.Fatal(err)
			}
		}
		for name, each := range map[string]func(*ebpf.Map, func(Address, Endpoint)) error{"batch": Each[Address, Endpoint], "one by one": eachOneByOne} {
			seen := map[Address]uint32{}
			err := each(m, func(a Address, e Endpoint) {
				if _, twice := seen[a]; twice || e.Ifindex != uint32(a[0])|uint32(a[1])<<8 {
					t.Errorf("%s: entry %v: %+v", name, a, e)
				}
				seen[a] = e.Ifindex
			})
			if err != nil || len(seen) != int(entries) {
				t.Errorf("%s: %d entries of %d, %v", name, len(seen), entries, err)
			}
		}
	}
}

func eachOneByOne(m *ebpf.Map, visit func(Address, Endpoint)) error {
	fresh := func() *Batch[Address, Endpoint] { return NewBatch[Address, Endpoint](3) }
	return oneByOne(m, fresh(), fresh, func(b *Batch[Address, Endpoint]) {
		for i := range b.N {
			visit(b.Keys[i], b.Values[i])
		}
	})
}
