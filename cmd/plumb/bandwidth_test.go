package main

import (
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// flows are connections that send as fast as they can.
type flows struct {
	got   atomic.Int64 // bytes of payload, where they arrive
	conns []io.Closer
	done  sync.WaitGroup
	fault atomic.Pointer[error]
}

// send makes n connections from a namespace to a listener in another one, at an address of it.
func send(t *testing.T, n int, from, to, at string) *flows {
	t.Helper()
	f := &flows{}
	var l net.Listener
	err := within(to, func() (err error) { l, err = net.Listen("tcp", at); return err })
	if err != nil {
		t.Fatal(err)
	}
	f.conns = append(f.conns, l)
	for range n {
		var c net.Conn
		if err := within(from, func() (err error) { c, err = net.DialTimeout("tcp", at, 10*time.Second); return err }); err != nil {
			t.Fatal(err)
		}
		r, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		f.conns = append(f.conns, c, r)
		f.done.Go(func() { f.run(func() (int, error) { return c.Write(make([]byte, 64<<10)) }, false) })
		buffer := make([]byte, 1<<20)
		f.done.Go(func() { f.run(func() (int, error) { return r.Read(buffer) }, true) })
	}
	t.Cleanup(f.close)
	return f
}

func (f *flows) run(step func() (int, error), counts bool) {
	for {
		n, err := step()
		if counts {
			f.got.Add(int64(n))
		}
		if err != nil {
			f.fault.CompareAndSwap(nil, &err)
			return
		}
	}
}

// close ends the connections.
func (f *flows) close() {
	for _, c := range f.conns {
		c.Close()
	}
	f.done.Wait()
}

// rate is what arrives over a time, in bit/s: payload, and whole frames of 1514 bytes.
func (f *flows) rate(d time.Duration) (payload, frames float64) {
	before, begun := f.got.Load(), time.Now()
	<-time.After(d)
	payload = float64(f.got.Load()-before) * 8 / time.Since(begun).Seconds()
	return payload, payload * 1514 / 1448
}

// settles waits until what arrives is within 5 % of a rate: a busy machine may take it a while.
func (f *flows) settles(t *testing.T, want float64) {
	t.Helper()
	var seen []string
	for end := time.Now().Add(time.Minute); ; {
		_, frames := f.rate(2 * time.Second)
		if frames > want*0.95 && frames < want*1.05 {
			break
		}
		seen = append(seen, fmt.Sprintf("%.2f", frames/1e6))
		if time.Now().After(end) {
			t.Fatalf("%.0f Mbit/s were asked for, and come as %v", want/1e6, seen)
		}
	}
	if err := f.fault.Load(); err != nil {
		t.Fatalf("a connection broke: %v", *err)
	}
}

// limit sets the limits of both pods.
func (b *beyond) limit(egress, ingress, more string) string {
	b.Helper()
	b.write("limits.cue", fmt.Sprintf("package plumb\npods: [=~\"^(client|web)$\"]: bandwidth: {egress: %q, ingress: %q}\n%s\n", egress, ingress, more))
	return b.run("plumb", "apply", "--yes")
}

func (b *beyond) pod(name string) string {
	return fmt.Sprintf("/proc/%d/root/run/netns/%s", b.lab.Nodes[0].PID, name)
}

// qdiscs are those of the node's own namespace, as "eth0 noqueue".
func (b *beyond) qdiscs() (all []string) {
	b.Helper()
	err := handled(b.node(), unix.NETLINK_ROUTE, func(h *netlink.Handle) error {
		links, err := h.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			qs, err := h.QdiscList(l)
			if err != nil {
				return err
			}
			for _, q := range qs {
				all = append(all, fmt.Sprintf("%s %s %x %x", l.Attrs().Name, q.Type(), q.Attrs().Handle, q.Attrs().Parent))
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	slices.Sort(all)
	return all
}

// TestBandwidth limits what a pod sends and gets, from beyond the uplink and from its neighbour, changes the limits under way,
// and takes them away. Figures are those of internal/bench/bandwidth.
func TestBandwidth(t *testing.T) {
	b := newBeyond(t)
	before := b.qdiscs()
	// What the neighbour sends goes past no uplink, and yet by the queue.
	b.limit("100M", "20M", "")
	beside := send(t, 1, b.pod("client"), b.pod("web"), "10.0.0.20:7003")
	beside.settles(t, 20e6)
	beside.close()
	b.limit("10M", "20M", "")
	out := send(t, 8, b.pod("client"), b.underlay, fmt.Sprintf("%s:7001", b.far[0]))
	in := send(t, 1, b.underlay, b.pod("web"), "[fd00:10::20]:7002")
	out.settles(t, 10e6)
	in.settles(t, 20e6)
	b.limit("16M", "8M", "")
	out.settles(t, 16e6)
	in.settles(t, 8e6)
	in.close()
	if out.fault.Load() != nil {
		t.Errorf("a connection broke: %v", *out.fault.Load())
	}
	b.run("plumb", "plan", "--detailed-exitcode")
	b.write("limits.cue", "package plumb\n")
	b.run("plumb", "apply", "--yes")
	if _, frames := out.rate(2 * time.Second); frames < 17e6 {
		t.Errorf("without a limit %.1f Mbit/s arrive", frames/1e6)
	}
	b.run("plumb", "destroy", "--yes")
	if after := b.qdiscs(); !slices.Equal(after, before) {
		t.Errorf("qdiscs before: %q, after: %q", before, after)
	}
}
