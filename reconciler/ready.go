package reconciler

import (
	"container/heap"
	"slices"
)

// ready holds the steps that wait for nothing any more, the next one first.
type ready struct {
	heap    []int
	rank    []int   // of each step among all: comparing numbers is what makes the heap fast
	missing []int   // how many steps each one still waits for; -1 once it was taken
	next    [][]int // the steps that wait for each one
}

// newReady starts with the steps that wait for nothing.
func newReady(g *graph) *ready {
	r := &ready{rank: make([]int, len(g.steps)), missing: make([]int, len(g.steps)), next: make([][]int, len(g.steps))}
	ranked := make([]int, len(g.steps))
	for i := range ranked {
		ranked[i] = i
	}
	slices.SortFunc(ranked, g.compare)
	for rank, s := range ranked {
		r.rank[s] = rank
	}
	for i, s := range g.steps {
		r.missing[i] = len(s.before)
		for _, b := range s.before {
			r.next[b] = append(r.next[b], i)
		}
	}
	for i, n := range r.missing {
		if n == 0 {
			heap.Push(r, i)
		}
	}
	return r
}

// ends reports whether all steps become possible in time: no circle of them wait for each other. It takes none.
func (r *ready) ends() bool {
	missing, possible := slices.Clone(r.missing), slices.Clone(r.heap)
	for i := 0; i < len(possible); i++ {
		for _, n := range r.next[possible[i]] {
			if missing[n]--; missing[n] == 0 {
				possible = append(possible, n)
			}
		}
	}
	return len(possible) == len(missing)
}

// first is the next step; there has to be one.
func (r *ready) first() int { return r.heap[0] }

// take removes the next step.
func (r *ready) take() int {
	s := heap.Pop(r).(int)
	r.missing[s] = -1
	return s
}

// done releases what waited for s.
func (r *ready) done(s int) {
	for _, n := range r.next[s] {
		if r.missing[n]--; r.missing[n] == 0 {
			heap.Push(r, n)
		}
	}
}

// Len implements heap.Interface.
func (r *ready) Len() int { return len(r.heap) }

// Less implements heap.Interface.
func (r *ready) Less(i, j int) bool { return r.rank[r.heap[i]] < r.rank[r.heap[j]] }

// Swap implements heap.Interface.
func (r *ready) Swap(i, j int) { r.heap[i], r.heap[j] = r.heap[j], r.heap[i] }

// Push implements heap.Interface.
func (r *ready) Push(x any) { r.heap = append(r.heap, x.(int)) }

// Pop implements heap.Interface.
func (r *ready) Pop() any {
	s := r.heap[len(r.heap)-1]
	r.heap = r.heap[:len(r.heap)-1]
	return s
}
