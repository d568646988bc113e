package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
)

// The metrics, as the table names them.
const (
	gbits       = "Gbit/s"
	connections = "connections/s"
	cpuTime     = "CPU µs/connection"
	p50         = "round trip p50 µs"
	p99         = "round trip p99 µs"
)

var metrics = []string{gbits, connections, cpuTime, p50, p99}

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

// table prints each lane's medians, and its ratios to the first lane's figure of the same round.
func table(w io.Writer, lanes []*lane) {
	for _, m := range metrics {
		fmt.Fprintf(w, "\n%-20s %12s   ratio to %s: median [95 %%]\n", m, "median", lanes[0].name)
		for i, l := range lanes {
			ratios := make([]float64, len(l.figures[m]))
			for k, v := range l.figures[m] {
				ratios[k] = v / lanes[0].figures[m][k]
			}
			fmt.Fprintf(w, "  %-18s %12.2f", l.name, median(slices.Clone(l.figures[m])))
			if i > 0 {
				low, high := interval(ratios)
				fmt.Fprintf(w, "   %.3f [%.3f–%.3f]", median(ratios), low, high)
			}
			fmt.Fprintln(w)
		}
	}
}
