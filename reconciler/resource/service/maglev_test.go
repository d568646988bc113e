package service

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// candidates makes n backends with ids from a seed; slot i for the i-th.
func candidates(seed uint64, n int) []candidate {
	r := rand.New(rand.NewPCG(seed, 1))
	cs := make([]candidate, n)
	for i := range cs {
		cs[i] = candidate{id: r.Uint64(), weight: 1, slot: uint16(i)}
	}
	return cs
}

// owners returns a table as the ids of the backends.
func owners(size int, cs []candidate) []uint64 {
	table := make([]uint16, size)
	ids := make(map[uint16]uint64, len(cs))
	for _, c := range cs {
		ids[c.slot] = c.id
	}
	fillMaglev(table, slices.Clone(cs))
	out := make([]uint64, size)
	for i, s := range table {
		out[i] = ids[s]
	}
	return out
}

func TestMaglevShares(t *testing.T) {
	for _, c := range []struct {
		size    int
		weights []int
	}{
		{1, []int{1}}, {2, []int{1, 1}}, {7, []int{1, 1, 1}}, {251, []int{1, 1, 1}}, {4093, []int{1, 1, 1}}, {4093, []int{5, 5}},
		{4093, []int{1, 2, 3}}, {4093, []int{1, 65535}}, {16381, []int{10, 20, 30, 40, 1}}, {4096, []int{1, 1, 1}}, {100, []int{3, 1}},
	} {
		cs := candidates(uint64(c.size), len(c.weights))
		sum := 0
		for i, w := range c.weights {
			cs[i].weight = w
			sum += w
		}
		got := map[uint64]int{}
		for i, id := range owners(c.size, cs) {
			if id == 0 {
				t.Fatalf("%+v: slot %d is empty", c, i)
			}
			got[id]++
		}
		for i, b := range cs {
			want := float64(c.size) * float64(c.weights[i]) / float64(sum)
			if d := float64(got[b.id]) - want; d < -2 || d > 2 {
				t.Errorf("%+v: backend %d has %d slots, its share is %.1f", c, i, got[b.id], want)
			}
		}
	}
}

func TestMaglevOrder(t *testing.T) {
	cs := candidates(7, 20)
	for i := range cs {
		cs[i].weight = 1 + i%4
	}
	want := owners(16381, cs)
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(cs), func(i, j int) { cs[i], cs[j] = cs[j], cs[i] })
	if !slices.Equal(owners(16381, cs), want) {
		t.Error("the order of the backends changes the table")
	}
}

// Both ways to fill a table give the same.
func TestMaglevWays(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		size := uint32([]int{2, 3, 251, 2039, 4093, 16381, fewSize}[r.IntN(7)])
		var walks []walk
		for i := range 1 + r.IntN(few) {
			w := walk{at: r.Uint32N(size), step: 1 + r.Uint32N(size-1), weight: 1 + r.IntN(3)*r.IntN(100), slot: uint16(i)}
			for common(w.step, size) != 1 {
				w.step++
			}
			walks = append(walks, w)
		}
		a, b := make([]uint16, size), make([]uint16, size)
		fillFew(a, slices.Clone(walks))
		fillMany(b, slices.Clone(walks))
		if !slices.Equal(a, b) {
			t.Fatalf("seed %d: tables of %+v differ", seed, walks)
		}
	}
}

// A backend that goes moves its own share, and of the others' at most 1 % of the table, in the mean of 20 seeds.
func TestMaglevDisruption(t *testing.T) {
	for _, c := range []struct{ backends, size int }{{3, 4093}, {10, 16381}, {50, 65521}, {100, 131071}} {
		var mean, most float64
		for seed := range uint64(20) {
			cs := candidates(seed, c.backends)
			gone := cs[seed%uint64(c.backends)]
			before := owners(c.size, cs)
			after := owners(c.size, slices.DeleteFunc(slices.Clone(cs), func(x candidate) bool { return x.id == gone.id }))
			moved := 0
			for i := range before {
				if before[i] != gone.id && before[i] != after[i] {
					moved++
				}
			}
			extra := float64(moved) / float64(c.size)
			mean += extra / 20
			most = max(most, extra)
		}
		t.Logf("%d backends, %d slots: %.2f %% of the others' moved, at most %.2f %%", c.backends, c.size, mean*100, most*100)
		if mean > 0.01 {
			t.Errorf("%d backends, %d slots: %.2f %% of the others' moved", c.backends, c.size, mean*100)
		}
	}
}
