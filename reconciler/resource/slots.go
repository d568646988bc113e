package resource

import "slices"

// MaxSlots is how many slots weights may take. A frontend of more backends has one for each.
const MaxSlots = 1024

// Slots spreads what is new over backends by their weights: every slot is the index of a backend, and picking any slot
// with equal chance, or one after the other, gives each its share. Backends that get nothing new have none. Weights are
// divided by what they have in common, and one backend's slots are spread evenly between those of the others. Where that
// takes more than MaxSlots, weights are scaled down to as many or one for each backend, whichever is more.
func Slots(backends []Backend) []int { return spread(backends, MaxSlots) }

func spread(backends []Backend, limit int) []int {
	weights := make([]int, len(backends))
	common, sum := 0, 0
	for i, b := range backends {
		if b.State == Active && b.Weight > 0 {
			weights[i] = b.Weight
			common = gcd(common, b.Weight)
			sum += b.Weight
		}
	}
	if sum == 0 {
		return nil
	}
	scaled := 0
	for i, w := range weights {
		switch {
		case w == 0:
			continue
		case sum/common > limit:
			weights[i] = max(1, (w*limit+sum/2)/sum)
		default:
			weights[i] = w / common
		}
		scaled += weights[i]
	}
	// Rounding up, and those that would have none, made too many: the heaviest miss one least.
	for scaled > limit {
		heaviest := slices.Index(weights, slices.Max(weights))
		if weights[heaviest] == 1 {
			break
		}
		weights[heaviest]--
		scaled--
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
