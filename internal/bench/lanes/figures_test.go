package lanes

import "testing"

func TestInterval(t *testing.T) {
	var v []float64
	for i := range 101 {
		v = append(v, float64(i))
	}
	if m := median(v); m != 50 {
		t.Errorf("median %v", m)
	}
	if low, high := interval(v); low >= 50 || high <= 50 || low < 30 || high > 70 {
		t.Errorf("interval %v to %v", low, high)
	}
	if m := median([]float64{4, 1, 3, 2}); m != 2.5 {
		t.Errorf("median of four: %v", m)
	}
}
