package lanes

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
)

// A Metric is one thing measured, as the table names it.
type Metric string

// The first ones are measured for some time; the last two are how long a number of operations takes.
const (
	Gbits          Metric = "Gbit/s"
	CPUGbit        Metric = "CPU ms/Gbit"
	GbitsIn        Metric = "Gbit/s to client"
	CPUGbitIn      Metric = "CPU ms/Gbit to client"
	Connections    Metric = "connections/s"
	CPUConnection  Metric = "CPU µs/connection"
	Transactions   Metric = "transactions/s"
	CPUTransaction Metric = "CPU µs/transaction"
	P50            Metric = "round trip p50 µs"
	P99            Metric = "round trip p99 µs"
	PerConnection  Metric = "ns/connection"
	PerRoundTrip   Metric = "ns/round trip"
)

// resamples of a bootstrap.
const resamples = 4000

// median sorts v.
func median(v []float64) float64 {
	slices.Sort(v)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// interval is the 95 % interval of the median of v, by a bootstrap with a fixed seed.
func interval(v []float64) (low, high float64) {
	r := rand.New(rand.NewPCG(1, 2))
	medians := make([]float64, resamples)
	draw := make([]float64, len(v))
	for i := range medians {
		for k := range draw {
			draw[k] = v[r.IntN(len(v))]
		}
		medians[i] = median(draw)
	}
	slices.Sort(medians)
	return medians[resamples*25/1000], medians[resamples*975/1000]
}

// table prints each lane's medians of a metric, and its ratios to the first lane's figure of the same round.
func table(w io.Writer, m Metric, lanes []*Lane) {
	fmt.Fprintf(w, "\n%-22s %12s   ratio to %s: median [95 %%]\n", m, "median", lanes[0].Name)
	for i, l := range lanes {
		fmt.Fprintf(w, "  %-20s %12.2f", l.Name, median(slices.Clone(l.figures[m])))
		if i > 0 {
			r := ratios(l.figures[m], lanes[0].figures[m])
			low, high := interval(r)
			fmt.Fprintf(w, "   %.3f [%.3f–%.3f]", median(r), low, high)
			if low <= 1 && high >= 1 {
				fmt.Fprint(w, "  not distinguishable")
			}
			if l.Note != nil {
				fmt.Fprint(w, l.Note(m))
			}
		}
		fmt.Fprintln(w)
	}
}

func ratios(of, to []float64) []float64 {
	r := make([]float64, len(of))
	for k := range of {
		r[k] = of[k] / to[k]
	}
	return r
}
