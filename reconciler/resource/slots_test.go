package resource

import (
	"cmp"
	"slices"
	"testing"
)

func TestSlots(t *testing.T) {
	for name, c := range map[string]struct {
		weights []int
		limit   int
		want    []int
	}{
		"equal":       {weights: []int{5, 5, 5}, want: []int{0, 1, 2}},
		"spread":      {weights: []int{2, 6}, want: []int{1, 0, 1, 1}},
		"interleaved": {weights: []int{4, 2, 2}, want: []int{0, 1, 2, 0}},
		"nothing new": {weights: []int{0, 3, -1}, want: []int{1}},
		"nobody":      {weights: []int{0, -1}},
		"scaled":      {weights: []int{1000, 3000, 1}, limit: 4, want: []int{1, 0, 2, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			var backends []Backend
			for _, w := range c.weights {
				b := Backend{Weight: w, State: Active}
				if w < 0 {
					b = Backend{Weight: 1, State: Terminating}
				}
				backends = append(backends, b)
			}
			if got := spread(backends, cmp.Or(c.limit, MaxSlots)); !slices.Equal(got, c.want) {
				t.Errorf("slots %v, want %v", got, c.want)
			}
		})
	}
}

// However weights are, they take no more slots than there may be, and each backend has one.
func TestMaxSlots(t *testing.T) {
	for _, c := range []struct{ weights, want []int }{
		{[]int{65535, 1}, []int{1023, 1}},
		{[]int{1, 65535, 1, 65535}, []int{1, 511, 1, 511}},
		{[]int{1000, 1001, 1003}, []int{341, 341, 342}},
		{append([]int{2}, slices.Repeat([]int{1}, 1029)...), slices.Repeat([]int{1}, 1030)},
	} {
		var backends []Backend
		for _, w := range c.weights {
			backends = append(backends, Backend{Weight: w, State: Active})
		}
		got := make([]int, len(c.weights))
		for _, i := range Slots(backends) {
			got[i]++
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v", got)
		}
	}
}

// Shares are exact where the slots are enough, or one for each is what is asked for.
func TestShares(t *testing.T) {
	alike := make([]int, MaxSlots+1)
	for i := range alike {
		alike[i] = 7
	}
	for name, c := range map[string]struct {
		weights []int
		want    []int
		exact   bool
	}{
		"nobody":       {nil, nil, true},
		"nothing new":  {[]int{0, 0}, []int{0, 0}, true},
		"divided":      {[]int{60000, 30000, 0}, []int{2, 1, 0}, true},
		"just enough":  {[]int{1023, 1}, []int{1023, 1}, true},
		"one too many": {[]int{1024, 1}, []int{1023, 1}, false},
		"heavy":        {[]int{65535, 1}, []int{1023, 1}, false},
		"many alike":   {alike, slices.Repeat([]int{1}, len(alike)), true},
		"many, not":    {append([]int{14}, alike...), slices.Repeat([]int{1}, len(alike)+1), false},
	} {
		t.Run(name, func(t *testing.T) {
			var backends []Backend
			for _, w := range c.weights {
				backends = append(backends, Backend{Weight: w, State: Active})
			}
			shares, of, exact := Shares(backends)
			if !slices.Equal(shares, c.want) || exact != c.exact || of != len(Slots(backends)) {
				t.Errorf("shares %v of %d, exact %v, want %v, %v", shares, of, exact, c.want, c.exact)
			}
		})
	}
}
