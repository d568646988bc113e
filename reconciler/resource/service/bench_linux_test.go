package service

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
)

// parallel does what an apply does: its workers take one service after the other.
func parallel(tb testing.TB, all []Service, do func(Service) error) {
	tb.Helper()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		next int
	)
	for range 2 * runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= len(all) {
					return
				}
				if err := do(all[i]); err != nil {
					tb.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// cpu reports the processor time of what a benchmark does: elsewhere on the machine others work too.
func cpu(b *testing.B) (start, stop func()) {
	var spent, at time.Duration
	now := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	b.Cleanup(func() { b.ReportMetric(float64(spent.Microseconds())/1000/float64(b.N), "cpu-ms/op") })
	return func() { at = now() }, func() { spent += now() - at }
}

func benchHost(b *testing.B, n int) *host.Host {
	h := kindtest.Root(b)
	mapsOf(b, h, map[string]int{"frontends": 2 * n, "slots": 6 * n, "members": 16, "affinities": 1024, "flows": 131072,
		"sock_forward": 131072, "sock_reverse": 131072, "maglev_4093s": min(n, 10000) + 16})
	return h
}

func BenchmarkMaglev(b *testing.B) {
	for _, c := range []struct {
		name              string
		n, backends, size int
	}{{"10000 of 4093", 10000, 3, 4093}, {"100 of 16381", 100, 10, 16381}, {"10 of 131071", 10, 100, 131071}} {
		b.Run(c.name, func(b *testing.B) {
			table := make([]uint16, c.size)
			sets := make([][]candidate, 64)
			for i := range sets {
				sets[i] = candidates(uint64(i), c.backends)
			}
			start, stop := cpu(b)
			for b.Loop() {
				start()
				for i := range c.n {
					fillMaglev(table, sets[i%len(sets)])
				}
				stop()
			}
		})
	}
}

func BenchmarkCreate(b *testing.B) {
	for _, algorithm := range []string{resource.Random, resource.Maglev} {
		b.Run("10000 "+algorithm, func(b *testing.B) {
			h := benchHost(b, 10000)
			all := fill(10000, algorithm)
			start, stop := cpu(b)
			for b.Loop() {
				start()
				parallel(b, all, func(s Service) error { return Ops{}.Create(context.Background(), h, s) })
				stop()
				b.StopTimer()
				parallel(b, all, func(s Service) error { return Ops{}.Delete(context.Background(), h, s) })
				b.StartTimer()
			}
		})
	}
}

func BenchmarkDelete(b *testing.B) {
	h := benchHost(b, 10000)
	all := fill(10000, resource.Random)
	for b.Loop() {
		b.StopTimer()
		parallel(b, all, func(s Service) error { return Ops{}.Create(context.Background(), h, s) })
		owned, _, err := Ops{}.Observe(context.Background(), h, nil)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		parallel(b, owned, func(s Service) error { return Ops{}.Delete(context.Background(), h, s) })
	}
}

func BenchmarkObserve(b *testing.B) {
	for _, c := range []struct {
		n         int
		algorithm string
	}{{1000, resource.Random}, {10000, resource.Random}, {50000, resource.Random}, {10000, resource.Maglev}} {
		b.Run(fmt.Sprintf("%d %s", c.n, c.algorithm), func(b *testing.B) {
			h := benchHost(b, c.n)
			all := fill(c.n, c.algorithm)
			parallel(b, all, func(s Service) error { return Ops{}.Create(context.Background(), h, s) })
			start, stop := cpu(b)
			for b.Loop() {
				start()
				owned, _, err := Ops{}.Observe(context.Background(), h, all)
				stop()
				if err != nil || len(owned) != c.n || owned[0].Broken != "" {
					b.Fatal(err, len(owned))
				}
			}
		})
	}
}

func BenchmarkUpdate(b *testing.B) {
	for _, algorithm := range []string{resource.Random, resource.Maglev} {
		b.Run("one of 50000 "+algorithm, func(b *testing.B) {
			h := benchHost(b, 50000)
			all := fill(10000, algorithm)
			parallel(b, all, func(s Service) error { return Ops{}.Create(context.Background(), h, s) })
			owned, _, err := Ops{}.Observe(context.Background(), h, all)
			if err != nil {
				b.Fatal(err)
			}
			from := owned[17]
			to := from
			to.Backends = append([]resource.Backend(nil), from.Backends...)
			for i := 0; b.Loop(); i++ {
				to.Backends[1].Weight = 2 + i%2
				if err := (Ops{}).Update(context.Background(), h, from, to); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// 10,000 UDP services go at once, while the data path remembers all that it has room for.
func BenchmarkForget(b *testing.B) {
	h := benchHost(b, 10000)
	all := fill(10000, resource.Random)
	for i := range all {
		all[i].Protocol = "UDP"
	}
	flows, err := h.BPFMaps("flows")
	if err != nil {
		b.Fatal(err)
	}
	start, stop := cpu(b)
	for b.Loop() {
		b.StopTimer()
		parallel(b, all, func(s Service) error { return Ops{}.Create(context.Background(), h, s) })
		for i := range 100000 {
			s := all[i%len(all)]
			k := bpf.FlowKey{Dst: bpf.AddressOf(s.Address), Sport: bpf.PortOf(uint16(i)), Dport: bpf.PortOf(uint16(i >> 16)), Proto: bpf.UDP}
			v := bpf.Flow{Service: HashID(s.Address, s.Port, s.Protocol), Kind: bpf.FlowForward}
			if err := flows[0].Put(&k, &v); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		start()
		parallel(b, all, func(s Service) error { return Ops{}.Delete(context.Background(), h, s) })
		if err := (Ops{}).Finish(context.Background(), h); err != nil {
			b.Fatal(err)
		}
		stop()
	}
}
