package reconciler_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/schema"
)

// patience is how long a stream waits for what must come.
const patience = 20 * time.Second

// traffic are streams that go on while a node is changed.
type traffic struct {
	t       *testing.T
	h       *host.Host
	stop    chan struct{}
	streams []*stream
	// moments is how often the programs of sockets are taken away: an answer that is under way then comes from the backend to
	// a socket that isn't connected. There is one question at a time.
	moments int
}

// stream asks and is answered, one round after the other.
type stream struct {
	name   string
	rounds atomic.Int64
	done   chan struct{}
	err    error
}

// start begins a stream; round is one round, and says which.
func (tr *traffic) start(name string, round func(i int) error) {
	s := &stream{name: name, done: make(chan struct{})}
	tr.streams = append(tr.streams, s)
	go func() {
		defer close(s.done)
		pace := time.NewTicker(time.Millisecond)
		defer pace.Stop()
		for i := 0; ; i++ {
			select {
			case <-tr.stop:
				return
			case <-pace.C:
			}
			if s.err = round(i); s.err != nil {
				return
			}
			s.rounds.Add(1)
		}
	}()
}

// flows waits until every stream has made some rounds more, and fails where one can't.
func (tr *traffic) flows(after string) {
	tr.t.Helper()
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	late := time.After(patience)
	for _, s := range tr.streams {
		for want := s.rounds.Load() + 5; s.rounds.Load() < want; {
			select {
			case <-s.done:
				tr.t.Fatalf("%s: %s, after %d rounds: %v", after, s.name, s.rounds.Load(), s.err)
			case <-late:
				tr.t.Fatalf("%s: %s stands still after %d rounds", after, s.name, s.rounds.Load())
			case <-look.C:
			}
		}
	}
}

// in is the namespace of a pod.
func (tr *traffic) in(pod string) *host.NS {
	tr.t.Helper()
	ns, err := tr.h.NS(pod)
	if err != nil {
		tr.t.Fatal(err)
	}
	return ns
}

// serve answers in a pod by TCP and UDP with what it is sent.
func (tr *traffic) serve(pod string, addrs ...string) {
	tr.t.Helper()
	for _, addr := range addrs {
		var l net.Listener
		var u *net.UDPConn
		at := netip.AddrPortFrom(netip.MustParseAddr(addr), 8080)
		if err := tr.in(pod).Do(func() (err error) {
			if l, err = net.Listen("tcp", at.String()); err != nil {
				return err
			}
			u, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
			return err
		}); err != nil {
			tr.t.Fatal(err)
		}
		tr.t.Cleanup(func() { l.Close(); u.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go answer(c)
			}
		}()
		go func() {
			b := make([]byte, 2048)
			for {
				n, from, err := u.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				if _, err := u.WriteToUDPAddrPort(b[:n], from); err != nil {
					return
				}
			}
		}()
	}
}

// answer sends back what comes, until the client has closed.
func answer(c net.Conn) {
	defer c.Close()
	b := make([]byte, 4096)
	for {
		n, err := c.Read(b)
		if err != nil {
			return
		}
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
	}
}

// fill makes bytes that differ from place to place of a stream.
func fill(b []byte, at int) {
	for i := range b {
		b[i] = byte((at + i) * 31 >> 3)
	}
}

// tcp is a connection from a pod, compared byte by byte.
func (tr *traffic) tcp(pod, to string) {
	tr.t.Helper()
	var c net.Conn
	if err := tr.in(pod).Do(func() (err error) { c, err = net.DialTimeout("tcp", to, patience); return err }); err != nil {
		tr.t.Fatalf("connect to %s from %s: %v", to, pod, err)
	}
	tr.t.Cleanup(func() { c.Close() })
	sent, got := make([]byte, 997), make([]byte, 997)
	tr.start("TCP from "+pod+" to "+to, func(i int) error {
		fill(sent, i*len(sent))
		if _, err := c.Write(sent); err != nil {
			return err
		}
		for n := 0; n < len(got); {
			if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
				return err
			}
			m, err := c.Read(got[n:])
			if err != nil {
				return err
			}
			if n += m; string(got[:n]) != string(sent[:n]) {
				return fmt.Errorf("round %d: bytes differ", i)
			}
		}
		return nil
	})
}

// udp asks from one socket, connected or not: every question is answered once, in its turn, by who was asked.
func (tr *traffic) udp(pod, to string, connected bool) {
	tr.t.Helper()
	at := netip.MustParseAddrPort(to)
	var c *net.UDPConn
	if err := tr.in(pod).Do(func() (err error) {
		if connected {
			c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(at))
		} else {
			c, err = net.ListenUDP(map[bool]string{true: "udp4", false: "udp6"}[at.Addr().Is4()], nil)
		}
		return err
	}); err != nil {
		tr.t.Fatal(err)
	}
	tr.t.Cleanup(func() { c.Close() })
	b := make([]byte, 2048)
	strange := 0
	tr.start(fmt.Sprintf("UDP from %s to %s, connected %t", pod, to, connected), func(i int) error {
		want := fmt.Sprint("question ", i)
		var err error
		if connected {
			_, err = c.Write([]byte(want))
		} else {
			_, err = c.WriteToUDPAddrPort([]byte(want), at)
		}
		if err != nil {
			return fmt.Errorf("question %d: %w", i, err)
		}
		if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil {
			return fmt.Errorf("answer %d: %w", i, err)
		}
		if from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port()); from != at && !connected {
			strange++
		}
		if from != at && (connected || strange > tr.moments) || string(b[:n]) != want {
			return fmt.Errorf("answer %d is %q from %s", i, b[:n], from)
		}
		return nil
	})
}

// streamed is a node with clients and backends; change makes what a test wants of it.
func streamed(way string, change ...func(*schema.Config)) schema.Config {
	pods := map[string]schema.Pod{}
	for i, name := range []string{"one", "two", "spare", "client"} {
		pods[name] = schema.Pod{Attach: "veth", Addresses: []string{fmt.Sprintf("10.0.0.%d", 10+i), fmt.Sprintf("fd00:10::%d", 10+i)}}
	}
	pods["mac"] = schema.Pod{Attach: "macvlan", Addresses: []string{"10.0.0.40", "fd00:10::40"}}
	c := schema.Config{
		Pods:    pods,
		Routing: schema.Routing{Services: way},
		Services: map[string]schema.Service{"s": {
			Addresses: []string{"10.96.0.1", "fd00:96::1"}, Algorithm: "random",
			Ports:    map[string]schema.Port{"tcp": {Port: 80, TargetPort: 8080}, "udp": {Port: 53, TargetPort: 8080, Protocol: "UDP"}},
			Backends: []schema.Backend{{Pod: "one"}, {Pod: "two"}, {Pod: "spare", Weight: weight(0)}},
		}},
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

// with changes the one service.
func with(f func(*schema.Service)) func(*schema.Config) {
	return func(c *schema.Config) {
		s := c.Services["s"]
		f(&s)
		c.Services["s"] = s
	}
}

func algorithm(name string, size int) func(*schema.Config) {
	return with(func(s *schema.Service) { s.Algorithm, s.TableSize = name, size })
}

// Single changes that nobody's traffic may feel.
var (
	unrelated = func(c *schema.Config) {
		c.Pods["new"] = schema.Pod{Attach: "veth", Addresses: []string{"10.0.0.50"}}
		c.Services["new"] = schema.Service{Addresses: []string{"10.96.0.9"}, Ports: map[string]schema.Port{"p": {Port: 80}}, Backends: []schema.Backend{{Pod: "new"}}}
	}
	sticky  = with(func(s *schema.Service) { s.Affinity.Timeout = "1h" })
	leaving = with(func(s *schema.Service) {
		s.Backends[0].State, s.Backends[1].State = "terminating", "maintenance"
		s.Backends[2].Weight = weight(1)
	})
	drained  = with(func(s *schema.Service) { s.Backends = s.Backends[:2] })
	heavier  = with(func(s *schema.Service) { s.Backends[1].Weight = weight(7) })
	settled  = func(c *schema.Config) { c.Routing.HostRouting = "legacy" }
	roomy    = func(c *schema.Config) { c.Tuning.Maps = schema.Maps{Services: 700, Ratio: larger} }
	services = func(c *schema.Config) { c.Tuning.Maps = schema.Maps{Services: 500} }
)

// join puts the process, and the sockets that it makes from now on, into the node's cgroup for the length of a test.
func join(t *testing.T, h *host.Host) {
	t.Helper()
	top, err := host.Mount("cgroup2")
	if err != nil {
		t.Skip(err)
	}
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	home := top
	for line := range strings.Lines(string(self)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			home = filepath.Join(top, path)
		}
	}
	if err := h.JoinCgroup(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(filepath.Join(home, "cgroup.procs"), []byte("0"), 0); err != nil {
			t.Error(err)
		}
	})
}

// begin brings a node up and starts streams of all kinds from the pods of two attachments.
func begin(t *testing.T, o host.Options, s resource.State, moments int) *traffic {
	t.Helper()
	if err := converge(t, o, s); err != nil {
		t.Fatal(err)
	}
	tr := &traffic{t: t, h: kindtest.Open(t, o), stop: make(chan struct{}), moments: moments}
	join(t, tr.h)
	for i, name := range []string{"one", "two", "spare"} {
		tr.serve(name, fmt.Sprintf("10.0.0.%d", 10+i), fmt.Sprintf("fd00:10::%d", 10+i))
	}
	clients := []string{"client"}
	if len(able(t, "macvlan")) > 0 {
		clients = append(clients, "mac")
	}
	for _, client := range clients {
		for _, addr := range []string{"10.96.0.1", "fd00:96::1"} {
			tr.tcp(client, net.JoinHostPort(addr, "80"))
			tr.udp(client, net.JoinHostPort(addr, "53"), true)
			tr.udp(client, net.JoinHostPort(addr, "53"), false)
		}
	}
	t.Cleanup(func() { // before the sockets are closed
		close(tr.stop)
		for _, s := range tr.streams {
			<-s.done
			if s.err != nil {
				t.Errorf("%s, after %d rounds: %v", s.name, s.rounds.Load(), s.err)
			}
			t.Logf("%s: %d rounds", s.name, s.rounds.Load())
		}
	})
	tr.flows("at first")
	return tr
}

// TestTrafficSurvives changes a node in every way that must not be felt, while streams go through its services: not a byte
// and not a datagram is lost, doubled or answered by another than who was asked.
func TestTrafficSurvives(t *testing.T) {
	ways := []string{"packet", "socket", "auto"}
	if testing.Short() {
		ways = []string{"auto"}
	}
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			o := kindtest.Options(t)
			plain := compileAll(t, streamed(way))
			tr := begin(t, o, plain, 0)
			changes := []struct {
				name   string
				change []func(*schema.Config)
			}{
				{"an unrelated apply", []func(*schema.Config){unrelated}},
				{"affinity", []func(*schema.Config){sticky}},
				{"Maglev", []func(*schema.Config){algorithm("maglev", 251)}},
				{"a larger table", []func(*schema.Config){algorithm("maglev", 2039)}},
				{"round-robin", []func(*schema.Config){algorithm("round-robin", 0), sticky}},
				{"weights", []func(*schema.Config){heavier}},
				{"no new clients", []func(*schema.Config){leaving}},
				{"another backend drained", []func(*schema.Config){drained}},
				{"other programs", []func(*schema.Config){settled}},
				{"room for more services", []func(*schema.Config){services}},
				{"larger maps", []func(*schema.Config){roomy}},
				{"all at once", []func(*schema.Config){unrelated, algorithm("maglev", 509), sticky, drained, settled, services}},
			}
			if testing.Short() {
				changes = changes[len(changes)-1:]
			}
			for _, c := range changes {
				if err := converge(t, o, compileAll(t, streamed(way, c.change...))); err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
				tr.flows(c.name)
				if err := converge(t, o, plain); err != nil {
					t.Fatalf("back from %s: %v", c.name, err)
				}
				tr.flows("back from " + c.name)
			}
		})
	}
}

// ask makes one connection from a pod, and is answered.
func (tr *traffic) ask(t *testing.T, pod, to string) {
	t.Helper()
	var c net.Conn
	if err := tr.in(pod).Do(func() (err error) { c, err = net.DialTimeout("tcp", to, patience); return err }); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := []byte("hello")
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Read(b); err != nil || string(b) != "hello" {
		t.Fatalf("the answer is %q: %v", b, err)
	}
}
