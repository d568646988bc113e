package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/netns"
)

// Which way connections send.
const (
	out = "out" // of the pod
	in  = "in"
)

// settling is how long connections run before they are measured.
const settling = 3 * time.Second

// figures are what connections had.
type figures struct {
	rate             float64       // bit/s of frames
	p50, p99         time.Duration // round trips of another connection
	sent, again      uint64        // segments
	tooFast, dropped uint64        // packets: by the programs, and by the queues
}

func (f figures) resent() string {
	return fmt.Sprintf("%.2f %%", 100*float64(f.again)/float64(max(f.sent, 1)))
}

// pair is a connection by both ends.
type pair struct{ from, to *net.TCPConn }

// connect makes a connection from a namespace to an address of another one.
func connect(from, to *os.File, at netip.Addr) (p pair, err error) {
	var l *net.TCPListener
	err = netns.Do(int(to.Fd()), func() (err error) {
		l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
		return err
	})
	if err != nil {
		return p, err
	}
	defer l.Close()
	err = netns.Do(int(from.Fd()), func() (err error) {
		p.from, err = net.DialTCP("tcp", nil, l.Addr().(*net.TCPAddr))
		return err
	})
	if err != nil {
		return p, err
	}
	if p.to, err = l.AcceptTCP(); err != nil {
		p.from.Close()
	}
	return p, err
}

func (p pair) close() {
	for _, c := range []*net.TCPConn{p.from, p.to} {
		_ = c.SetLinger(0)
		c.Close()
	}
}

// run has n connections send for some time, as fast as they can, and datagrams at a rate, while another connection sends a
// byte there and back.
func (b *bed) run(way string, n int, datagrams float64, d time.Duration) (f figures, err error) {
	from, to, at := b.pod, b.host, host
	if way == in {
		from, to, at = to, from, podAddr
	}
	var pairs []pair
	var got atomic.Int64
	var work sync.WaitGroup
	defer work.Wait()
	defer func() {
		for _, p := range pairs {
			p.close()
		}
	}()
	for i := range n + 1 {
		p, err := connect(from, to, at)
		if err != nil {
			return f, err
		}
		pairs = append(pairs, p)
		if i == n {
			work.Go(func() { _, _ = io.Copy(onlyWriter{p.to}, p.to) }) // the echo
			break
		}
		work.Go(func() {
			for buffer := make([]byte, 128<<10); ; {
				if _, err := p.from.Write(buffer); err != nil {
					return
				}
			}
		})
		work.Go(func() {
			for buffer := make([]byte, 256<<10); ; {
				k, err := p.to.Read(buffer)
				got.Add(int64(k))
				if err != nil {
					return
				}
			}
		})
	}
	if datagrams > 0 {
		c, err := flood(from, to, at, datagrams, &work, &got)
		if err != nil {
			return f, err
		}
		defer c.Close()
	}
	flows, probe := pairs[:n], pairs[n].from
	if _, err := roundTrips(probe, settling); err != nil {
		return f, err
	}
	before, err := b.count(flows)
	if err != nil {
		return f, err
	}
	begun, was := time.Now(), got.Load()
	trips, err := roundTrips(probe, d)
	if err != nil {
		return f, err
	}
	f, err = b.count(flows)
	f.rate = float64(got.Load()-was) * 8 / time.Since(begun).Seconds()
	if datagrams > 0 {
		f.rate *= (datagram + 42) / datagram
	} else {
		f.rate *= frame / payload
	}
	f.sent, f.again = f.sent-before.sent, f.again-before.again
	f.tooFast, f.dropped = f.tooFast-before.tooFast, f.dropped-before.dropped
	slices.Sort(trips)
	f.p50, f.p99 = trips[len(trips)/2], trips[len(trips)*99/100]
	return f, err
}

// What is in a frame of TCP with time stamps, and in a datagram: less than fits, as of one that is cut in two a full queue drops
// one part.
const frame, payload, datagram = 1514.0, 1448, 1300.0

// flood sends datagrams of that much at a rate, until what it returns is closed.
func flood(from, to *os.File, at netip.Addr, rate float64, work *sync.WaitGroup, got *atomic.Int64) (io.Closer, error) {
	var l *net.UDPConn
	var c *net.UDPConn
	err := netns.Do(int(to.Fd()), func() (err error) {
		l, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
		return err
	})
	if err != nil {
		return nil, err
	}
	err = netns.Do(int(from.Fd()), func() (err error) {
		c, err = net.DialUDP("udp", nil, l.LocalAddr().(*net.UDPAddr))
		return err
	})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	work.Go(func() {
		defer l.Close()
		b := make([]byte, int(datagram))
		begun := time.Now()
		for tick := time.NewTicker(2 * time.Millisecond); ; <-tick.C {
			for sent := 0.0; sent*(datagram+42)*8 < rate*time.Since(begun).Seconds(); sent++ {
				if _, err := c.Write(b); errors.Is(err, net.ErrClosed) {
					return
				}
			}
			begun = time.Now()
		}
	})
	work.Go(func() {
		for b := make([]byte, 2048); ; {
			n, err := l.Read(b)
			if err != nil {
				return
			}
			got.Add(int64(n))
		}
	})
	return c, nil
}

// onlyWriter keeps io.Copy from splicing: bytes come back one by one.
type onlyWriter struct{ io.Writer }

// roundTrips sends a byte there and back, 100 times a second at most, for some time.
func roundTrips(c net.Conn, d time.Duration) (trips []time.Duration, err error) {
	b := make([]byte, 1)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(d)
	if err := c.SetDeadline(end.Add(d)); err != nil {
		return nil, err
	}
	for ; time.Now().Before(end); <-tick.C {
		begun := time.Now()
		if _, err = c.Write(b); err == nil {
			_, err = io.ReadFull(c, b)
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return trips, err
		}
		trips = append(trips, time.Since(begun)) // what has no answer by now takes at least as long
	}
	return trips, nil
}

// count reads what the kernel and the programs have counted so far.
func (b *bed) count(flows []pair) (f figures, err error) {
	for _, p := range flows {
		raw, e := p.from.SyscallConn()
		if e == nil {
			var info *unix.TCPInfo
			cerr := raw.Control(func(fd uintptr) { info, e = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
			if e = errors.Join(cerr, e); e == nil {
				f.sent += uint64(info.Data_segs_out)
				f.again += uint64(info.Total_retrans)
			}
		}
		err = errors.Join(err, e)
	}
	tooFast, e := b.Counted("too-fast")
	f.tooFast = tooFast
	dropped, e2 := b.dropped()
	f.dropped = dropped
	return f, errors.Join(err, e, e2)
}
