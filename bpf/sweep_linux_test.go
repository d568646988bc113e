package bpf

import (
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/kindtest"
)

// sweptMaps is object sweep with maps of its own.
type sweptMaps struct {
	*ebpf.Collection
	flows, affinities int // entries that have to stay
}

func newSweep(t *testing.T, period uint32, keep map[string]*ebpf.Map) sweptMaps {
	t.Helper()
	kindtest.NeedRoot(t)
	if err := features.HaveProgramHelper(ebpf.SchedCLS, asm.FnTimerInit); errors.Is(err, ebpf.ErrNotSupported) {
		t.Skip("this kernel has no timers for eBPF programs")
	}
	spec, err := loadSweep()
	if err != nil {
		t.Fatal(err)
	}
	for name := range spec.Maps {
		if name[0] != '.' && name != "swept" {
			spec.Maps[name].MaxEntries = 4096
		}
		if name[0] != '.' && !slices.Contains(Uses("sweep", "sweep"), name) {
			delete(spec.Maps, name)
		}
	}
	if err := spec.Variables["period"].Set(period); err != nil {
		t.Fatal(err)
	}
	var c *ebpf.Collection
	err = lifted(func() (err error) {
		c, err = ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: keep})
		return err
	})
	if err != nil {
		var v *ebpf.VerifierError
		errors.As(err, &v)
		t.Fatalf("%v%+v", err, v)
	}
	t.Cleanup(c.Close)
	return sweptMaps{Collection: c}
}

// fill puts entries on both sides of their time-outs into the maps.
func (s *sweptMaps) fill(t *testing.T, now time.Duration) {
	t.Helper()
	put := func(name string, k, v any) {
		t.Helper()
		if err := s.Maps[name].Put(k, v); err != nil {
			t.Fatal(err)
		}
	}
	var n uint32
	for _, c := range []struct {
		proto, state uint8
		timeout      uint32
	}{
		{TCP, 0, 60},
		{TCP, FlowEstablished, 6 * 3600},
		{TCP, FlowEstablished | FlowFinForward, 6 * 3600},
		{TCP, FlowEstablished | FlowFinForward | FlowFinReverse, 10},
		{TCP, FlowEstablished | FlowReset, 10},
		{TCP, FlowReset, 10},
		{TCP, FlowFinReverse, 60},
		{UDP, 0, 60},
		{UDP, FlowEstablished, 180},
		{ICMP, 0, 60},
	} {
		// Some seconds of margin: the sweep comes later than this. Some entries are newer than the clock was.
		for _, age := range []uint32{0, c.timeout - 9, c.timeout + 1, c.timeout + 5000, math.MaxUint32} {
			n++
			f := Flow{Kind: FlowForward, State: c.state, Seen: uint32(now/time.Second) - age}
			put("flows", FlowKey{Proto: c.proto, Sport: PortOf(uint16(n))}, f)
			if int32(age) <= int32(c.timeout) {
				s.flows++
			}
		}
	}
	put("frontends", FrontendKey{Port: PortOf(1)}, Frontend{Affinity: 10})
	put("frontends", FrontendKey{Port: PortOf(2)}, Frontend{Affinity: 300})
	put("frontends", FrontendKey{Port: PortOf(3)}, Frontend{})
	for i, age := range []time.Duration{-time.Second, 0, 290 * time.Second, 301 * time.Second, time.Hour} {
		put("affinities", AffinityKey{Service: uint64(i)}, Affinity{Seen: uint64(now - age)})
		if age < 300*time.Second {
			s.affinities++
		}
	}
}

// left reads what is left of the maps.
func (s *sweptMaps) left(t *testing.T) (flows map[FlowKey]Flow, affinities map[AffinityKey]Affinity) {
	t.Helper()
	flows, affinities = map[FlowKey]Flow{}, map[AffinityKey]Affinity{}
	if err := Each(s.Maps["flows"], func(k FlowKey, f Flow) { flows[k] = f }); err != nil {
		t.Fatal(err)
	}
	if err := Each(s.Maps["affinities"], func(k AffinityKey, a Affinity) { affinities[k] = a }); err != nil {
		t.Fatal(err)
	}
	return flows, affinities
}

// await waits for a sweep that began after a time.
func await(t *testing.T, swept *ebpf.Map, after uint64) (s Swept) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for {
		if err := swept.Lookup(uint32(0), &s); err != nil {
			t.Fatal(err)
		}
		if s.At > after {
			return s
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("no sweep within 20 s: %+v", s)
		}
	}
}

func clock(t *testing.T) time.Duration {
	t.Helper()
	now, err := SinceBoot()
	if err != nil {
		t.Fatal(err)
	}
	return now
}

const soon = 20 // ms

// The timer and user space delete the same.
func TestSweep(t *testing.T) {
	here, there := newSweep(t, soon, nil), newSweep(t, soon, nil)
	now := clock(t)
	here.fill(t, now)
	there.fill(t, now)
	deleted, err := Sweep(here.Maps["flows"], here.Maps["frontends"], here.Maps["affinities"], now)
	if err != nil {
		t.Fatal(err)
	}
	if err := StartSweep(there.Programs["sweep"]); err != nil {
		t.Fatal(err)
	}
	await(t, there.Maps["swept"], 0)
	swept := await(t, there.Maps["swept"], uint64(now)) // another one has begun, so the first has ended
	if swept.Deleted != uint64(deleted) || swept.Took == 0 {
		t.Errorf("%+v; user space deleted %d entries", swept, deleted)
	}
	flows1, affinities1 := here.left(t)
	flows2, affinities2 := there.left(t)
	if diff := cmp.Diff(flows1, flows2); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(affinities1, affinities2); diff != "" {
		t.Error(diff)
	}
	if len(flows1) != here.flows || len(affinities1) != here.affinities {
		t.Errorf("%d flows and %d affinities are left, want %d and %d", len(flows1), len(affinities1), here.flows, here.affinities)
	}
	deleted, err = Sweep(here.Maps["flows"], here.Maps["frontends"], here.Maps["affinities"], now)
	if deleted != 0 || err != nil {
		t.Errorf("a second sweep deleted %d entries: %v", deleted, err)
	}
}

// The timer goes on without the program that started it, until another one takes its place.
func TestSweepGoesOn(t *testing.T) {
	first := newSweep(t, soon, nil)
	first.fill(t, clock(t))
	if err := StartSweep(first.Programs["sweep"]); err != nil {
		t.Fatal(err)
	}
	swept := first.Maps["swept"]
	s := await(t, swept, 0)
	first.Programs["sweep"].Close()
	first.fill(t, clock(t))
	await(t, swept, await(t, swept, s.At).At)
	await(t, swept, await(t, swept, s.At).At)
	if flows, _ := first.left(t); len(flows) != first.flows/2 {
		t.Errorf("%d flows are left, want %d", len(flows), first.flows/2)
	}

	second := newSweep(t, soon, map[string]*ebpf.Map{"swept": swept})
	now := clock(t)
	second.fill(t, now)
	if err := StartSweep(second.Programs["sweep"]); err != nil {
		t.Fatal(err)
	}
	first.fill(t, now)
	s = await(t, swept, uint64(clock(t)))
	await(t, swept, s.At)
	if flows, _ := second.left(t); len(flows) != second.flows {
		t.Errorf("%d flows are left of the second program's, want %d", len(flows), second.flows)
	}
	if flows, _ := first.left(t); len(flows) == first.flows/3 {
		t.Error("the first program's timer still runs")
	}
}

// A timer that the kernel has no memory for at this moment is asked for again; one that it refuses for good is an error.
func TestStartSweepAgain(t *testing.T) {
	noMemory := -int32(unix.ENOMEM)
	for refused, want := range map[int]error{0: nil, 3: nil, 100: unix.ENOMEM} {
		runs := 0
		err := startSweep(func() (uint32, error) {
			if runs++; runs <= refused {
				return uint32(noMemory), nil
			}
			return 0, nil
		})
		if !errors.Is(err, want) || runs != min(refused+1, startTries) {
			t.Errorf("refused %d times: %v after %d runs, want %v", refused, err, runs, want)
		}
	}
}
