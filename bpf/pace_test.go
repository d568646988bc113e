package bpf

import (
	"net/netip"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// paced is the part of struct __sk_buff that pacing is about.
type paced struct {
	_       [38]uint32
	Tstamp  uint64 // ns since boot
	WireLen uint32
	_       uint32
	_       uint64
	GSOSize uint32
	_       [3]uint32
}

func now(t testing.TB) uint64 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return uint64(ts.Nano())
}

// stamp gives a packet of so many bytes to uplink_egress, and says when it may leave.
func (p *path) stamp(in frame, length uint32, wanted uint64) (ret uint32, at uint64) {
	p.t.Helper()
	b := in.bytes()
	before, after := paced{Tstamp: wanted, WireLen: length}, paced{}
	opts := ebpf.RunOptions{Data: b, DataOut: make([]byte, len(b)+512), Context: before, ContextOut: &after}
	ret, err := p.Programs["uplink_egress"].Run(&opts)
	if err != nil {
		p.t.Fatal(err)
	}
	return ret, after.Tstamp
}

func (p *path) next(a netip.Addr) uint64 {
	p.t.Helper()
	var v Pace
	if err := p.Maps["paces"].Lookup(AddressOf(a), &v); err != nil {
		p.t.Fatal(err)
	}
	return v.Next
}

// What a pod sends leaves one after the other at its rate, from whatever address, and nobody else's does.
func TestPace(t *testing.T) {
	for _, object := range []string{"packet", "forward"} {
		p := newPath(t, object, map[string]uint32{"pace": 1})
		h, h6 := bothFamilies[0], bothFamilies[1]
		rate := uint64(8e6) // a byte a microsecond
		p.put("paces", AddressOf(h.client), Pace{Rate: rate})
		p.put("paces", AddressOf(h6.client), Pace{With: AddressOf(h.client)})
		p.put("paces", AddressOf(h6.other), Pace{With: AddressOf(h.other)}) // which isn't there
		packet := func(from, to netip.Addr) frame {
			return frame{src: on(from, 1000), dst: on(to, 2000), proto: UDP, payload: "x"}
		}
		begun := now(t)
		for _, nobody := range []frame{packet(h.backend, h.outside), packet(h6.backend, h6.outside), packet(h6.other, h6.outside)} {
			if ret, at := p.stamp(nobody, 1500, 0); ret != pass || at != 0 {
				t.Errorf("%s: %v may leave at %d, %d", object, nobody, at, int32(ret))
			}
		}
		ret, at := p.stamp(packet(h.client, h.outside), 1500, 0)
		if ret != pass || at < begun || at > now(t) {
			t.Fatalf("%s: the first packet may leave at %d, not at once, %d; %d", object, at, begun, int32(ret))
		}
		// Nearly half a second's worth, which takes less to send to the program: each goes as soon as the one before has had its time.
		first, sent := at, uint64(1500)
		for i := range 8 {
			from, to := h.client, h.outside
			if i%2 == 1 {
				from, to = h6.client, h6.outside
			}
			was := p.next(h.client)
			ret, at = p.stamp(packet(from, to), 60000, 0)
			if ret != pass || at < was {
				t.Fatalf("%s: packet %d may leave at %d, before %d; %d", object, i, at, was, int32(ret))
			}
			sent += 60000
		}
		if late := p.next(h.client) - first; late < sent*1000 {
			t.Errorf("%s: %d bytes had %d ns", object, sent, late)
		}
	}
}

// A socket that asks for later gets later, and takes no time from others; one that asks for too late is taken for another
// clock's.
func TestPaceOfSocket(t *testing.T) {
	p := newPath(t, "forward", map[string]uint32{"pace": 1})
	h := bothFamilies[0]
	p.put("paces", AddressOf(h.client), Pace{Rate: 1e9})
	in := frame{src: on(h.client, 1000), dst: on(h.outside, 2000), proto: UDP, payload: "x"}
	soon := now(t) + uint64(1500*time.Millisecond)
	if ret, at := p.stamp(in, 1500, soon); ret != pass || at != soon {
		t.Errorf("asks for %d, gets %d, %d", soon, at, int32(ret))
	}
	if next := p.next(h.client); next >= soon {
		t.Error("all the pod waits for one socket")
	}
	if ret, at := p.stamp(in, 1500, 1<<62); ret != pass || at > now(t)+uint64(time.Second) {
		t.Errorf("by another clock: may leave at %d, %d", at, int32(ret))
	}
}

// What would leave later than the horizon is dropped, and takes no time from what comes after it.
func TestPaceHorizon(t *testing.T) {
	p := newPath(t, "forward", map[string]uint32{"pace": 1})
	h := bothFamilies[0]
	late := now(t) + uint64(time.Hour)
	p.put("paces", AddressOf(h.client), Pace{Rate: 1e6, Next: late})
	in := frame{src: on(h.client, 1000), dst: on(h.outside, 2000), proto: UDP, payload: "x"}
	if ret, _ := p.stamp(in, 1500, 0); ret != shot || p.counted("too-fast") != 1 {
		t.Errorf("%d, %d counted", int32(ret), p.counted("too-fast"))
	}
	if next := p.next(h.client); next != late {
		t.Errorf("what is dropped takes %d ns", next-late)
	}
}

// Packets wait for 100 ms, or for as long as 512 KiB take, but never more than 2 s.
func TestPacePatience(t *testing.T) {
	p := newPath(t, "forward", map[string]uint32{"pace": 1})
	h := bothFamilies[0]
	in := frame{src: on(h.client, 1000), dst: on(h.outside, 2000), proto: UDP, payload: "x"}
	for _, c := range []struct {
		rate uint64
		wait time.Duration
		want uint32
	}{
		{1e6, 1800 * time.Millisecond, pass}, // 512 KiB take 4.2 s
		{1e6, time.Hour, shot},
		{10e6, 400 * time.Millisecond, pass}, // and here 0.42 s
		{10e6, 1800 * time.Millisecond, shot},
		{1e9, 90 * time.Millisecond, pass},
		{1e9, 1800 * time.Millisecond, shot},
	} {
		p.put("paces", AddressOf(h.client), Pace{Rate: c.rate, Next: now(t) + uint64(c.wait)})
		if ret, _ := p.stamp(in, 1500, 0); ret != c.want {
			t.Errorf("at %d bit/s, after %v: %d, expected %d", c.rate, c.wait, int32(ret), int32(c.want))
		}
	}
}

// Where it isn't asked for nothing gets a time.
func TestPaceOff(t *testing.T) {
	p := newPath(t, "packet", map[string]uint32{"source_check": 1})
	h := bothFamilies[0]
	p.put("paces", AddressOf(h.client), Pace{Rate: 1e6, Next: now(t) + uint64(time.Hour)})
	if ret, at := p.stamp(frame{src: on(h.client, 1), dst: on(h.outside, 2), proto: UDP, payload: "x"}, 1500, 0); ret != pass || at != 0 {
		t.Errorf("may leave at %d, %d", at, int32(ret))
	}
}

// What waits in a queue on its way into a pod passes its to_pod, where answers are translated, and what doesn't fit goes
// through the stack.
func TestQueued(t *testing.T) {
	each(t, func(t *testing.T, p *path, f hosts, proto uint8) {
		e := p.pod(f.backend, Veth, 20)
		e.MTU = 200
		p.put("endpoints", AddressOf(f.backend), e)
		to := frame{src: on(f.client, 1000), dst: on(f.backend, 2000), proto: proto, flags: syn, payload: "x"}
		if proto == UDP {
			to.flags = 0
		}
		want := to
		want.hops, want.dmac, want.smac = 63, [6]byte{2, 0, 0, 0, 1, 20}, [6]byte{2, 0, 0, 0, 2, 20}
		if got := p.see("from_pod", to, redirect); got != want {
			t.Errorf("straight: %+v, not %+v", got, want)
		}
		to.payload = string(make([]byte, 200))
		p.untouched("from_pod", to)
		// An answer from another pod, to a client that has a limit.
		client, vip, backend := on(f.backend, 3000), on(f.vip, 80), on(f.other, 8080)
		p.service(vip, proto, Frontend{}, backend)
		ask := frame{src: client, dst: vip, proto: proto, flags: to.flags, payload: "x"}
		p.see("from_pod", ask, redirect)
		answer := frame{src: backend, dst: client, proto: proto, flags: syn | ack, payload: "y"}
		if proto == UDP {
			answer.flags = 0
		}
		got := p.see("from_pod", answer, redirect)
		if got.src != backend {
			t.Errorf("the answer becomes one of %v before its queue", got.src)
		}
		if got = p.see("to_pod", answer, pass); got.src != vip {
			t.Errorf("the answer becomes one of %v behind its queue", got.src)
		}
	})
}
