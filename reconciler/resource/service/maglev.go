package service

import (
	"cmp"
	"slices"
)

// member of a Maglev table.
type candidate struct {
	id     uint64 // of the backend: a hash of its address and port
	weight int    // at least 1
	slot   uint16 // what the table holds for it
}

// fillMaglev fills a lookup table by Maglev's algorithm (Eisenbud et al., NSDI'16, section 3.4): each backend walks through
// the table in an order of its own, made from two hashes of its address, and in its turn takes the first place that is
// free. Weights follow the practice of published implementations: in every round a backend earns its weight, and has a
// turn when it has the heaviest one's together. The order of the candidates doesn't matter. Primes serve best as sizes;
// any other works too.
func fillMaglev(table []uint16, backends []candidate) {
	size := uint32(len(table))
	if size == 0 || len(backends) == 0 {
		return
	}
	type walk struct {
		at, step uint32
		weight   int
		earned   int
		slot     uint16
	}
	slices.SortFunc(backends, func(a, b candidate) int { return cmp.Compare(a.id, b.id) })
	heaviest := 0
	walks := make([]walk, len(backends))
	for i, b := range backends {
		h := mix(b.id)
		w := walk{at: uint32(h % uint64(size)), step: 1, weight: b.weight, slot: b.slot}
		if size > 1 {
			w.step = uint32(mix(h)%uint64(size-1)) + 1
		}
		for common(w.step, size) != 1 {
			w.step++ // never where the size is a prime
		}
		walks[i] = w
		heaviest = max(heaviest, b.weight)
	}
	const free = 1 << 15
	for i := range table {
		table[i] = free
	}
	for left := size; ; {
		for i := range walks {
			w := &walks[i]
			if w.earned += w.weight; w.earned < heaviest {
				continue
			}
			w.earned -= heaviest
			at := w.at
			for table[at] != free {
				at = onward(at, w.step, size)
			}
			table[at] = w.slot
			w.at = onward(at, w.step, size)
			if left--; left == 0 {
				return
			}
		}
	}
}

// onward is the place after at in the order of a backend that goes by step.
func onward(at, step, size uint32) uint32 {
	at += step
	return min(at, at-size) // below size, at-size is a huge number
}

// mix is the finalizer of SplitMix64 (Steele et al., OOPSLA'14).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

func common(a, b uint32) uint32 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
