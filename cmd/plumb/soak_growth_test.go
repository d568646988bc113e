package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
)

// figures are what a daemon uses, at its lowest within a moment.
type figures struct{ goroutines, files, heap, resident float64 }

func (f figures) String() string {
	return fmt.Sprintf("%v goroutines, %v descriptors, heap %.1f MB, resident %.1f MB", f.goroutines, f.files, f.heap/1e6, f.resident/1e6)
}

// figures asks often enough that the daemon has been between two cycles.
func (s *soak) figures() figures {
	s.Helper()
	low := s.ask()
	for range 50 {
		low = low.lower(s.ask())
	}
	return low
}

// calm asks until nothing gets less any more: a daemon that has nothing to do for some seconds gives back what it took, and
// what nobody holds any more is closed then.
func (s *soak) calm() figures {
	s.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	low, since := s.ask(), time.Now()
	for ; time.Since(since) < 5*time.Second; <-tick.C {
		now := low.lower(s.ask())
		if now.goroutines < low.goroutines || now.files < low.files {
			since = time.Now()
		}
		low = now
	}
	return low
}

func (f figures) lower(g figures) figures {
	return figures{min(f.goroutines, g.goroutines), min(f.files, g.files), min(f.heap, g.heap), min(f.resident, g.resident)}
}

// ask reads the daemon's own numbers.
func (s *soak) ask() (f figures) {
	s.Helper()
	c, err := net.Dial("unix", fmt.Sprintf("/proc/%d/root/run/plumb/edge-1/api.sock", s.lab.Nodes[0].PID))
	s.must(err)
	defer c.Close()
	_, err = io.WriteString(c, "GET /metrics HTTP/1.0\r\n\r\n")
	s.must(err)
	found := 0
	for lines := bufio.NewScanner(c); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), " ")
		at := map[string]*float64{"go_goroutines": &f.goroutines, "process_open_fds": &f.files,
			"go_memstats_heap_alloc_bytes": &f.heap, "process_resident_memory_bytes": &f.resident}[name]
		if at == nil {
			continue
		}
		_, err := fmt.Sscan(value, at)
		s.must(err)
		found++
	}
	if found != 4 {
		s.Fatalf("%d of 4 metrics", found)
	}
	return f
}

// aged compares daemons of the same age, the first half of them with the second: what one leaves behind must not make the
// next one bigger.
func (s *soak) aged() {
	s.Helper()
	for i, f := range s.ages {
		s.Logf("daemon %d, after %v: %v", i+1, killEvery, f)
	}
	half := len(s.ages) / 2
	if half < 2 {
		return
	}
	early, late := s.ages[:half], s.ages[len(s.ages)-half:]
	middle := func(of []figures, what func(figures) float64) float64 {
		sorted := slices.SortedFunc(slices.Values(of), func(a, b figures) int { return cmp.Compare(what(a), what(b)) })
		return what(sorted[len(sorted)/2])
	}
	for _, m := range []struct {
		name string
		of   func(figures) float64
		more float64 // that may be chance: what they have just been asked to do differs
	}{
		{"goroutines", func(f figures) float64 { return f.goroutines }, 2},
		{"descriptors", func(f figures) float64 { return f.files }, 4},
		{"bytes of heap", func(f figures) float64 { return f.heap }, 2e6},
		{"resident bytes", func(f figures) float64 { return f.resident }, 8e6},
	} {
		if a, b := middle(early, m.of), middle(late, m.of); b > a+m.more {
			s.Errorf("%s of daemons of one age grow from %v to %v", m.name, a, b)
		}
	}
}

// steady drives the daemon through many more cycles and expects that it doesn't grow by them: not by one descriptor.
func (s *soak) steady() {
	s.Helper()
	s.kill()
	s.interval = "1h" // so that it has nothing to do now and then
	s.start()
	drive := func(n int) figures {
		for range n {
			s.spoilRoute()
		}
		s.converges(30 * time.Second)
		return s.calm()
	}
	before := drive(100)
	after := drive(200)
	s.Logf("after a hundred changes: %v; after two hundred more: %v", before, after)
	if after.goroutines > before.goroutines || after.files > before.files {
		s.Errorf("it grows from %v to %v", before, after)
	}
	if after.heap > before.heap+1e6 || after.resident > before.resident+8e6 {
		s.Errorf("its memory grows from %v to %v", before, after)
	}
}

// spoilRoute deletes a route and waits until it is back.
func (s *soak) spoilRoute() {
	s.Helper()
	mustRun(s.T, s.in("sh", "-c", "ip route del 10.0.0.20/32; n=0; until ip route show 10.0.0.20/32 | grep -q .; do n=$((n+1)); test $n -lt 3000 || exit 1; done"))
}

// left lists what a node may gather: files of plumb's, pins, mounts.
func (s *soak) left() string {
	s.Helper()
	return mustRun(s.T, s.in("sh", "-c", `
		find /run/plumb /sys/fs/bpf/plumb /run/netns | grep -v -e '/progs/' | sort
		ls /sys/fs/bpf/plumb/edge-1/progs | cut -d. -f1 | cut -d: -f1 | sort
		cut -d' ' -f5 /proc/self/mountinfo | grep -e ^/run -e ^/sys/fs/bpf | sort
		ip netns list-id | wc -l`))
}
