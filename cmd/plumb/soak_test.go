package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/lab"
	"plumb.internal/plumb/internal/netns"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/schema"
)

// make soak sets these.
var (
	soakTime = flag.Duration("soak", 0, "how long others work against the daemon (default: 10s, with CI=true 1m)")
	soakSeed = flag.Uint64("seed", 1, "of the chances in the soak test")
)

// The paces of the soak test.
const (
	spoilEvery = 200 * time.Millisecond
	editEvery  = 1500 * time.Millisecond
	killEvery  = 20 * time.Second
	mendTime   = 5 * time.Second // until all is as it should be once it is over; longer where the machine is shared
)

const soakBase = `package plumb
nodes: "edge-1": podCIDRs: ["10.0.0.0/24", "fd00:10::/64"]
podDefaults: attach: "veth"
pods: spared1: addresses: ["10.0.0.10", "fd00:10::10"]
pods: spared2: addresses: ["10.0.0.11", "fd00:10::11"]
pods: a: addresses: ["10.0.0.20", "fd00:10::20"]
pods: b: addresses: ["10.0.0.21", "fd00:10::21"]
pods: c: {addresses: ["10.0.0.22"], sysctls: "net.ipv4.tcp_keepalive_time": "61"}
services: web: {addresses: ["10.96.0.1"], ports: http: port: 80, backends: [{pod: "a"}, {pod: "b"}]}
services: dns: {addresses: ["10.96.0.2"], ports: dns: {port: 53, protocol: "UDP"}, backends: [{pod: "c"}], algorithm: "maglev"}
`

// soak is a lab in which a daemon and an adversary are at work.
type soak struct {
	*testing.T
	lab    *lab.Lab
	dir    string
	h      *host.Host // what the adversary reaches the node by
	rnd    *rand.Rand
	daemon *exec.Cmd
	log    *os.File
	count  map[string]int // deeds of the adversary
}

// TestSoak lets an adversary and an editor work against the daemon, which is killed now and then. Once they stop, all is as
// the files say, what is somebody else's is untouched, and a stream between two pods has lost nothing.
func TestSoak(t *testing.T) {
	needRoot(t)
	long := cmp.Or(*soakTime, map[bool]time.Duration{true: time.Minute, false: 10 * time.Second}[os.Getenv("CI") == "true"])
	s := newSoak(t)
	s.start()
	s.converges(30 * time.Second)
	foreign := s.foreign()
	stream := s.stream()
	spoil, edit, kill := time.NewTicker(spoilEvery), time.NewTicker(editEvery), time.NewTicker(killEvery)
	defer spoil.Stop()
	defer edit.Stop()
	defer kill.Stop()
	for end := time.After(long); ; {
		select {
		case <-spoil.C:
			s.spoil()
			continue
		case <-edit.C:
			s.edit()
			continue
		case <-kill.C:
			s.kill()
			s.start()
			continue
		case <-end:
		}
		break
	}
	s.write(soakBase)
	within := mendTime
	if *soakTime == 0 {
		within *= 6
	}
	s.converges(within)
	t.Logf("%v of %v", long, s.count)
	if now := s.foreign(); now != foreign {
		t.Errorf("what is somebody else's was\n%s\nand is\n%s", foreign, now)
	}
	stream(t)
	s.steady()
	mustRun(t, s.in("plumb", "apply", "--yes")) // nothing to do
}

func newSoak(t *testing.T) *soak {
	s := &soak{T: t, dir: t.TempDir(), rnd: rand.New(rand.NewPCG(*soakSeed, 2)), count: map[string]int{}}
	s.write(soakBase)
	nodes, err := lab.NodesOf(&schema.Config{Nodes: map[string]schema.Node{"edge-1": {PodCIDRs: []string{"10.0.0.0/24"}}}})
	s.must(err)
	name := strings.ToLower(fmt.Sprintf("soak-%d", os.Getpid()))
	t.Cleanup(func() {
		if _, err := lab.Down(name); err != nil {
			t.Error(err)
		}
	})
	s.lab, err = lab.Up(t.Context(), name, s.dir, nodes)
	s.must(err)
	s.log, err = os.Create(filepath.Join(t.TempDir(), "log"))
	s.must(err)
	t.Cleanup(func() {
		s.kill()
		if b, err := os.ReadFile(s.log.Name()); err == nil && t.Failed() {
			t.Logf("the daemon's log ends so:\n%s", b[max(0, len(b)-8000):])
		}
	})
	root := fmt.Sprintf("/proc/%d/root", s.lab.Nodes[0].PID)
	s.h, err = host.Open(host.Options{Node: "edge-1", RunDir: root + "/run/plumb/edge-1", NetNSDir: root + "/run/netns",
		BPFFS: root + "/sys/fs/bpf/plumb/" + host.BPFFileName("edge-1"), RootNS: fmt.Sprintf("/proc/%d/ns/net", s.lab.Nodes[0].PID)})
	s.must(err)
	t.Cleanup(func() { s.h.Close() })
	mustRun(t, s.in("sh", "-c", `ip link add theirs type veth peer name theirs2 && ip addr add 198.51.100.1/24 dev theirs && ip link set theirs up &&
		ip route add 203.0.113.0/24 dev theirs && ip rule add pref 4000 from 198.51.100.0/24 lookup 4000 &&
		ip neigh add 198.51.100.9 dev theirs lladdr 02:00:00:00:00:09 nud permanent`))
	return s
}

func (s *soak) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *soak) in(args ...string) *exec.Cmd {
	c := s.lab.Command(context.WithoutCancel(s.Context()), "", args...)
	c.Dir = s.dir
	return c
}

func (s *soak) write(files string) {
	s.Helper()
	s.must(os.WriteFile(filepath.Join(s.dir, ".new"), []byte(files), 0o644))
	s.must(os.Rename(filepath.Join(s.dir, ".new"), filepath.Join(s.dir, "plumb.cue")))
}

func (s *soak) start() {
	s.Helper()
	s.daemon = s.in("plumb", "run", "--interval", "2s", "--allow-disruption", "--allow-delete")
	s.daemon.Stderr = s.log
	s.must(s.daemon.Start())
}

func (s *soak) kill() {
	if s.daemon != nil {
		_ = s.daemon.Process.Kill()
		_ = s.daemon.Wait()
		s.daemon = nil
	}
}

// converges waits until a plan has nothing left to do.
func (s *soak) converges(within time.Duration) {
	s.Helper()
	began, last := time.Now(), ""
	for ctx, cancel := context.WithTimeout(s.Context(), within); ; {
		out, err := s.in("plumb", "plan", "--detailed-exitcode").CombinedOutput()
		if err == nil {
			cancel()
			s.Logf("converged after %v", time.Since(began).Round(time.Millisecond))
			return
		}
		if last = string(out); ctx.Err() != nil {
			cancel()
			status, _ := s.in("plumb", "status").CombinedOutput()
			s.Fatalf("not converged within %v:\n%s\n%s", within, last, status)
		}
	}
}

// foreign prints what is somebody else's.
func (s *soak) foreign() string {
	s.Helper()
	return mustRun(s.T, s.in("sh", "-c", `ip -o addr show dev theirs scope global; ip route show dev theirs proto boot; ip rule show pref 4000; ip neigh show dev theirs nud permanent;
		ip -o link show dev theirs | cut -d' ' -f2-9`))
}

// edit writes the files anew: valid, not valid, or half.
func (s *soak) edit() {
	switch n := s.rnd.IntN(8); n {
	case 0:
		s.write(soakBase[:s.rnd.IntN(len(soakBase))])
		s.count["half-written files"]++
	case 1:
		s.write(soakBase + "pods: web: nonsense: 1\n")
		s.count["wrong files"]++
	case 2:
		s.must(os.RemoveAll(filepath.Join(s.dir, "plumb.cue")))
		s.count["missing files"]++
	case 3:
		s.write(soakBase)
	default:
		s.write(soakBase + fmt.Sprintf("pods: more%d: addresses: [\"10.0.0.%d\"]\nservices: web: sourceRanges: deny: []\n", n, 30+n))
		s.count["other files"]++
	}
}

// spoil does one thing against the daemon.
func (s *soak) spoil() {
	o, err := reconciler.Observe(s.Context(), s.h, resource.State{})
	if err != nil {
		return // the daemon is at work in the middle of it
	}
	var ids []resource.ID
	for _, id := range o.Owned.IDs() {
		if !strings.Contains(fmt.Sprint(id, resource.Pod(o.Owned[id])), "spared") {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return
	}
	id := ids[s.rnd.IntN(len(ids))]
	if err := s.harm(o.Owned[id]); err == nil {
		s.count[string(id.Kind)]++
	}
}

// harm changes or deletes one object. What is the node's own and carries the spared pods' stream is left alone.
func (s *soak) harm(r resource.Resource) error {
	id := r.ID()
	change := s.rnd.IntN(2) == 0
	switch {
	case id.Kind == "sysctl":
		if id.NetNS == "" {
			return errors.New("it would stop the stream")
		}
		ns, err := s.h.NS(id.NetNS)
		if err != nil {
			return err
		}
		return ns.Do(func() error {
			return os.WriteFile("/proc/sys/"+strings.ReplaceAll(id.Name, ".", "/"), []byte("1"), 0o644)
		})
	case id.Kind == "netns":
		return netns.Unbind(filepath.Join(s.h.NetNSDir, id.Name))
	case id.Kind == "link" && change:
		ns, err := s.h.NS(id.NetNS)
		if err != nil {
			return err
		}
		l, err := ns.Link(id.Name)
		if err != nil {
			return err
		}
		if s.rnd.IntN(2) == 0 {
			return ns.Handle().LinkSetDown(l)
		}
		return ns.Handle().LinkSetMTU(l, 1300)
	}
	p := &resource.Plan{Changes: []resource.Change{{ID: id, Action: resource.Delete, Before: r}}}
	return reconciler.Apply(s.Context(), s.h, p, reconciler.ApplyOptions{Parallel: 1})
}

// stream sends numbers from one spared pod to the other until the function that it returns is called, which checks that all
// of them came, in order.
func (s *soak) stream() func(t *testing.T) {
	s.Helper()
	in := func(pod string, fn func() error) {
		s.Helper()
		s.h.Forget()
		ns, err := s.h.NS(pod)
		s.must(err)
		s.must(ns.Do(fn))
	}
	var l net.Listener
	in("spared1", func() (err error) { l, err = net.Listen("tcp4", "10.0.0.10:7000"); return err })
	var c net.Conn
	in("spared2", func() (err error) { c, err = net.DialTimeout("tcp4", "10.0.0.10:7000", 5*time.Second); return err })
	far, err := l.Accept()
	s.must(err)
	l.Close()
	var (
		wg             sync.WaitGroup
		stop           = make(chan struct{})
		sent, received uint64
		broken         error
	)
	wg.Go(func() {
		defer c.Close()
		var b [8]byte
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for ; ; sent++ {
			binary.LittleEndian.PutUint64(b[:], sent)
			if _, err := c.Write(b[:]); err != nil {
				broken = err
				return
			}
			select {
			case <-stop:
				sent++
				return
			case <-tick.C:
			}
		}
	})
	wg.Go(func() {
		defer far.Close()
		r := bufio.NewReader(far)
		var b [8]byte
		for ; ; received++ {
			if _, err := io.ReadFull(r, b[:]); err != nil {
				return
			}
			if n := binary.LittleEndian.Uint64(b[:]); n != received {
				broken = fmt.Errorf("%d came in the place of %d", n, received)
				return
			}
		}
	})
	return func(t *testing.T) {
		close(stop)
		wg.Wait()
		if broken != nil || sent != received || sent == 0 {
			t.Errorf("the stream: %d sent, %d received, %v", sent, received, broken)
		}
		t.Logf("the stream: %d sent, %d received", sent, received)
	}
}

// steady drives the daemon through many more cycles and expects that it doesn't grow by them.
func (s *soak) steady() {
	s.Helper()
	drive := func(n int) {
		for range n {
			s.spoilRoute()
		}
		s.converges(30 * time.Second)
	}
	drive(20)
	goroutines, files := s.metric("go_goroutines"), s.metric("process_open_fds")
	heap := s.metric("process_resident_memory_bytes")
	drive(100)
	if n := s.metric("go_goroutines"); n > goroutines+5 {
		s.Errorf("%v goroutines, and %v after a hundred changes", goroutines, n)
	}
	if n := s.metric("process_open_fds"); n > files+20 { // those of a cycle under way come and go
		s.Errorf("%v descriptors, and %v after a hundred changes", files, n)
	}
	if n := s.metric("process_resident_memory_bytes"); n > heap*1.5+16<<20 {
		s.Errorf("%.0f MB, and %.0f after a hundred changes", heap/1e6, n/1e6)
	}
}

// spoilRoute deletes a route and waits until it is back.
func (s *soak) spoilRoute() {
	s.Helper()
	mustRun(s.T, s.in("sh", "-c", "ip route del 10.0.0.20/32; n=0; until ip route show 10.0.0.20/32 | grep -q .; do n=$((n+1)); test $n -lt 3000 || exit 1; done"))
}

// metric reads one number of the daemon's.
func (s *soak) metric(name string) float64 {
	s.Helper()
	c, err := net.Dial("unix", "/proc/"+fmt.Sprint(s.lab.Nodes[0].PID)+"/root/run/plumb/edge-1/api.sock")
	s.must(err)
	defer c.Close()
	_, err = io.WriteString(c, "GET /metrics HTTP/1.0\r\n\r\n")
	s.must(err)
	for lines := bufio.NewScanner(c); lines.Scan(); {
		var v float64
		if rest, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			if _, err := fmt.Sscan(rest, &v); err == nil {
				return v
			}
		}
	}
	s.Fatalf("no metric %s", name)
	return 0
}
