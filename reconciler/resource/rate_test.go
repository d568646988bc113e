package resource

import "testing"

func TestRate(t *testing.T) {
	for rate, text := range map[uint64]string{0: "0bit", 7: "7bit", 64e3: "64Kbit", 1500e3: "1500Kbit", 100e6: "100Mbit", 40e9: "40Gbit", 10e6 + 1: "10000001bit"} {
		if got := RateText(rate); got != text {
			t.Errorf("%d is %q, not %q", rate, got, text)
		}
		if got, err := ParseRate(text); err != nil || got != rate {
			t.Errorf("%q is %d, %v, not %d", text, got, err, rate)
		}
	}
	for _, text := range []string{"", "100", "fast", "-1Mbit", "1.5Gbit"} {
		if got, err := ParseRate(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}
