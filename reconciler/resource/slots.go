package resource

import "slices"

// MaxSlots is how many slots weights may take. A frontend of more backends has one for each.
const MaxSlots = 1024

// Slots spreads what is new over backends by their weights: every slot is the index of a backend, and picking any slot
// with equal chance, or one after the other, gives each its share. Backends that get nothing new have none. Weights are
// divided by what they have in common, and one backend's slots are spread evenly between those of the others. Where that
// takes more than MaxSlots, weights are scaled down to as many or one for each backend, whichever is more.
func Slots(backends []Backend) []int { return spread(backends, MaxSlots) }

// Shares are how many of the slots each backend has, and of how many. They are exact if those are the shares that the
// weights ask for.
func Shares(backends []Backend) (shares []int, of int, exact bool) {
	return share(backends, MaxSlots)
}

// Fit reports whether the slots are enough for the weights as they are.
func Fit(backends []Backend) bool {
	common, sum := weigh(backends)
	return sum == 0 || sum/common <= MaxSlots
}

// weigh finds what the weights have in common, and their sum.
func weigh(backends []Backend) (common, sum int) {
	for i := range backends {
		if b := &backends[i]; b.State == Active && b.Weight > 0 {
			common = gcd(common, b.Weight)
			sum += b.Weight
		}
	}
	return common, sum
}

func share(backends []Backend, limit int) (shares []int, of int, exact bool) {
	shares = make([]int, len(backends))
	for i, b := range backends {
		if b.State == Active {
			shares[i] = max(0, b.Weight)
		}
	}
	common, sum := weigh(backends)
	if sum == 0 {
		return shares, 0, true
	}
	if sum/common <= limit {
		for i := range shares {
			shares[i] /= common
		}
		return shares, sum / common, true
	}
	for i, w := range shares {
		if w > 0 {
			shares[i] = max(1, (w*limit+sum/2)/sum)
			of += shares[i]
		}
	}
	// Rounding up, and those that would have none, made too many: the heaviest miss one least.
	for of > limit {
		heaviest := slices.Index(shares, slices.Max(shares))
		if shares[heaviest] == 1 {
			break
		}
		shares[heaviest]--
		of--
	}
	exact = true
	for i, s := range shares {
		exact = exact && (s == 0 || backends[i].Weight*of == s*sum)
	}
	return shares, of, exact
}

func spread(backends []Backend, limit int) []int {
	weights, scaled, _ := share(backends, limit)
	if scaled == 0 {
		return nil
	}

	// Each turn everybody earns its weight, and the richest pays the whole round for the slot.
	slots := make([]int, 0, scaled)
	earned := make([]int, len(backends))
	for range scaled {
		best := -1
		for i, w := range weights {
			earned[i] += w
			if w > 0 && (best < 0 || earned[i] > earned[best]) {
				best = i
			}
		}
		earned[best] -= scaled
		slots = append(slots, best)
	}
	return slots
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
