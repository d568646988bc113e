package bpf

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// StartSweep winds up the timer that sweeps the maps of program sweep, from now on and as long as map "swept" is pinned.
// Where an older program's timer runs, this one takes its place. That it runs is to be seen in the map: At changes.
func StartSweep(sweep *ebpf.Program) error {
	// The program doesn't look at the packet, but there must be one.
	return startSweep(func() (uint32, error) { return sweep.Run(&ebpf.RunOptions{Data: make([]byte, 64)}) })
}

// startTries is how often a timer is asked for: a program gets memory for it only where some is free at once.
const startTries = 8

func startSweep(run func() (uint32, error)) error {
	for try := 0; ; try++ {
		ret, err := run()
		if err == nil && ret != 0 {
			err = fmt.Errorf("the kernel refused its timer: %w", unix.Errno(-int32(ret)))
		}
		if err == nil {
			return nil
		}
		if ret == 0 || try == startTries-1 {
			return fmt.Errorf("start the sweep of flows: %w", err)
		}
		time.Sleep(time.Millisecond << try)
	}
}

// The time-outs of flow.h, s.
const (
	synTimeout     = 60
	tcpTimeout     = 6 * 3600
	closingTimeout = 10
	udpTimeout     = 60
	streamTimeout  = 180
)

// Over reports whether nobody uses a flow any more, at a time since boot.
func (f Flow) Over(proto uint8, now time.Duration) bool {
	timeout := int32(synTimeout)
	switch established := f.State&FlowEstablished != 0; {
	case proto != TCP && established:
		timeout = streamTimeout
	case proto != TCP:
		timeout = udpTimeout
	case f.Closing():
		timeout = closingTimeout
	case established:
		timeout = tcpTimeout
	}
	return int32(uint32(now/time.Second)-f.Seen) > timeout
}

// SinceBoot is the clock of the programs.
func SinceBoot() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return 0, fmt.Errorf("read the clock: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// Sweep is what program sweep does, once, for kernels without timers: it deletes flows that are over, and affinities
// that no service keeps any longer. now is the time since boot.
func Sweep(flows, frontends, affinities *ebpf.Map, now time.Duration) (deleted int, err error) {
	var over []FlowKey
	err = Each(flows, func(k FlowKey, f Flow) {
		if f.Over(k.Proto, now) {
			over = append(over, k)
		}
	})
	if err != nil {
		return 0, fmt.Errorf("sweep flows: %w", err)
	}
	if deleted, err = remove(flows, over); err != nil {
		return deleted, fmt.Errorf("sweep flows: %w", err)
	}
	var longest time.Duration
	err = Each(frontends, func(_ FrontendKey, f Frontend) {
		longest = max(longest, time.Duration(f.Affinity)*time.Second)
	})
	if err != nil {
		return deleted, fmt.Errorf("sweep affinities: find the longest: %w", err)
	}
	var left []AffinityKey
	err = Each(affinities, func(k AffinityKey, a Affinity) {
		if now-time.Duration(a.Seen) > longest {
			left = append(left, k)
		}
	})
	if err != nil {
		return deleted, fmt.Errorf("sweep affinities: %w", err)
	}
	n, err := remove(affinities, left)
	if err != nil {
		err = fmt.Errorf("sweep affinities: %w", err)
	}
	return deleted + n, err
}

// remove deletes entries, some of which may have gone meanwhile.
func remove[K any](m *ebpf.Map, keys []K) (deleted int, err error) {
	for _, k := range keys {
		switch err := m.Delete(k); {
		case err == nil:
			deleted++
		case !errors.Is(err, ebpf.ErrKeyNotExist):
			return deleted, fmt.Errorf("delete entry: %w", err)
		}
	}
	return deleted, nil
}
