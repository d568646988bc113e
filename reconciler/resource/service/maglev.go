package service

import (
	"cmp"
	"math/bits"
	"slices"
)

// candidate is a backend that a Maglev table is made of.
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
	slices.SortFunc(backends, func(a, b candidate) int { return cmp.Compare(a.id, b.id) })
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
	}
	if len(walks) <= few && size <= fewSize && size > 1 {
		fillFew(table, walks)
	} else {
		fillMany(table, walks)
	}
}

// walk is a backend on its way through the table.
type walk struct {
	at, step uint32
	weight   int
	earned   int
	slot     uint16
}

// turn reports whether the backend has one in this round.
func (w *walk) turn(heaviest int) bool {
	w.earned += w.weight
	if w.earned < heaviest {
		return false
	}
	w.earned -= heaviest
	return true
}

func heaviest(walks []walk) (weight int) {
	for _, w := range walks {
		weight = max(weight, w.weight)
	}
	return weight
}

// fillMany lets the backends walk.
func fillMany(table []uint16, walks []walk) {
	const free = 0xffff
	size, most := uint32(len(table)), heaviest(walks)
	for i := range table {
		table[i] = free
	}
	for left := size; ; {
		for i := range walks {
			w := &walks[i]
			if !w.turn(most) {
				continue
			}
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

// What fillFew is for: with more backends it is no faster.
const (
	few     = 4 // a power of two
	fewSize = 1 << 14
)

// fillFew fills the same table in less than half the time. Most of fillMany's is lost where the processor guesses whether
// a place is free. Here each backend keeps a bit for every place, in the order of its own walk, so that the next free one
// is found 64 at a time; who takes a place works out where in the other walks that is, and clears their bits.
func fillFew(table []uint16, walks []walk) {
	size, most := uint64(len(table)), heaviest(walks)
	// Remainders of division by the size, by two multiplications (Lemire et al., Software: Practice and Experience 2019).
	reciprocal := ^uint64(0)/size + 1
	mod := func(x uint64) uint64 {
		hi, _ := bits.Mul64(reciprocal*x, size)
		return hi
	}
	// The n-th place of walk i is place add[i][j] + n*times[i][j] of walk j.
	var add, times [few][few]uint64
	for j, to := range walks {
		back := uint64(inverse(to.step, uint32(size)))
		for i, from := range walks {
			times[i][j] = uint64(from.step) * back % size
			add[i][j] = (uint64(from.at) + size - uint64(to.at)) % size * back % size
		}
	}
	var free [few][fewSize / 64]uint64
	for i := range walks {
		for k := range (len(table) + 63) / 64 {
			free[i][k] = ^uint64(0)
		}
	}
	var at [few]int // no word before it has a free place
	for left := len(table); ; {
		for i := range walks {
			w := &walks[i]
			if !w.turn(most) {
				continue
			}
			bitmap, k := &free[i%few], at[i%few]
			for bitmap[k%len(bitmap)] == 0 {
				k++
			}
			at[i%few] = k
			word := bitmap[k%len(bitmap)]
			bitmap[k%len(bitmap)] = word & (word - 1)
			n := uint64(k)*64 + uint64(bits.TrailingZeros64(word))
			table[mod(uint64(w.at)+n*uint64(w.step))] = w.slot
			for j := range walks {
				if j != i {
					m := mod(add[i%few][j%few] + n*times[i%few][j%few])
					free[j%few][m/64%uint64(len(bitmap))] &^= 1 << (m % 64)
				}
			}
			if left--; left == 0 {
				return
			}
		}
	}
}

// inverse is the number whose product with a is 1 modulo m; the two have no divisor in common.
func inverse(a, m uint32) uint32 {
	t, next := int64(0), int64(1)
	for r, s := int64(m), int64(a); s != 0; {
		q := r / s
		r, s = s, r-q*s
		t, next = next, t-q*next
	}
	if t < 0 {
		t += int64(m)
	}
	return uint32(t)
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
