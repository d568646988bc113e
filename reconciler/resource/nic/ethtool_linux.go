package nic

import "plumb.internal/plumb/internal/ethtool"

// words are where settings stand in the kernel's structs, which are made of 32-bit words with the command first.
var words = map[Setting]int{
	RxRing: 5, TxRing: 8,
	RxUsecs: 1, RxFrames: 2, TxUsecs: 5, TxFrames: 6, AdaptiveRx: 10, AdaptiveTx: 11,
}

// ask reads a group of settings by ethtool.
func ask(dev string, g group) ([]uint32, error) {
	w := make([]uint32, ethtool.RingWords)
	w[0] = ethtool.GetRings
	if g == ofCoalesce {
		w = make([]uint32, ethtool.CoalesceWords)
		w[0] = ethtool.GetCoalesce
	}
	return w, ethtool.Do(dev, w)
}

// tell writes some settings of a group by ethtool; the others stay as they are.
func tell(dev string, g group, values Values) error {
	w, err := ask(dev, g)
	if err != nil {
		return err
	}
	w[0] = ethtool.SetRings
	if g == ofCoalesce {
		w[0] = ethtool.SetCoalesce
	}
	for s, v := range values {
		w[words[s]] = v
	}
	return ethtool.Do(dev, w)
}
