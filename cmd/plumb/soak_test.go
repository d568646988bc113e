package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
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

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	gocmp "github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/lab"
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
nodes: "edge-1": {uplinks: ["eth0"], podCIDRs: ["10.0.0.0/24", "fd00:10::/64"]}
podDefaults: attach: "veth"
pods: spared1: addresses: ["10.0.0.10", "fd00:10::10"]
pods: spared2: addresses: ["10.0.0.11", "fd00:10::11"]
pods: a: addresses: ["10.0.0.20", "fd00:10::20"]
pods: b: addresses: ["10.0.0.21", "fd00:10::21"]
pods: c: {addresses: ["10.0.0.22"], sysctls: "net.ipv4.tcp_keepalive_time": "61"}
pods: d: {addresses: ["10.0.0.23", "fd00:10::23"], attach: "bridge"}
pods: e: {addresses: ["10.0.0.24", "fd00:10::24"], attach: "macvlan"}
pods: guest: {addresses: ["10.0.0.25"], netns: "/run/netns/container", interface: "eth1"}
services: web: {addresses: ["10.96.0.1"], ports: http: port: 80, backends: [{pod: "a"}, {pod: "b"}], affinity: timeout: "1h"}
services: dns: {addresses: ["10.96.0.2"], ports: dns: {port: 53, protocol: "UDP"}, backends: [{pod: "c"}], algorithm: %q}
services: more: {addresses: ["10.96.0.3", "fd00:96::3"], ports: p: port: 1, backends: [{pod: "d"}, {pod: "e", weight: 3}]}
`

// soakSpared are the addresses of the pods that the adversary spares.
var soakSpared = []string{"10.0.0.10", "fd00:10::10", "10.0.0.11", "fd00:10::11"}

// soakFiles are what is true in the end.
var soakFiles = fmt.Sprintf(soakBase, "maglev")

// soak is a lab in which a daemon and an adversary are at work.
type soak struct {
	*testing.T
	lab      *lab.Lab
	dir      string
	h        *host.Host // what the adversary reaches the node by
	rnd      *rand.Rand
	daemon   *exec.Cmd
	log      *os.File
	count    map[string]int // deeds of the adversary
	change   bool           // the next deed changes something, and doesn't delete it
	idle     *ebpf.Program  // that does nothing, on a device
	cgroup   *os.File       // the node's
	tcx      link.Link      // somebody else's, on a device of a pod that is spared
	interval string         // of the daemon's whole looks
	ages     []figures      // of daemons, right before they were killed
}

// TestSoak lets an adversary and an editor work against the daemon, which is killed now and then. Once they stop, all is as
// the files say, what is somebody else's is untouched, and a stream between two pods has lost nothing.
func TestSoak(t *testing.T) {
	needRoot(t)
	long := cmp.Or(*soakTime, map[bool]time.Duration{true: time.Minute, false: 10 * time.Second}[os.Getenv("CI") == "true"])
	s := newSoak(t)
	s.start()
	s.converges(30 * time.Second)
	s.guests()
	foreign := s.foreign()
	left := s.left()
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
			s.ages = append(s.ages, s.figures())
			s.kill()
			s.start()
			continue
		case <-end:
		}
		break
	}
	s.write(soakFiles)
	within := mendTime
	if *soakTime == 0 {
		within *= 6
	}
	s.converges(within)
	t.Logf("%v of %v", long, s.count)
	if diff := gocmp.Diff(strings.Split(foreign, "\n"), strings.Split(s.foreign(), "\n")); diff != "" {
		t.Errorf("what is somebody else's has changed (-was +is):\n%s", diff)
	}
	for end := time.Now().Add(30 * time.Second); ; { // the kernel takes its time to end a namespace
		s.h.Forget()
		_, err := s.h.Entries(t.Context()) // which lets go those that are no more
		s.must(err)
		diff := gocmp.Diff(strings.Split(left, "\n"), strings.Split(s.left(), "\n"))
		if diff == "" {
			break
		}
		if time.Now().After(end) {
			t.Errorf("what the node keeps has changed (-was +is):\n%s", diff)
			break
		}
	}
	stream(t)
	s.aged()
	s.steady()
	mustRun(t, s.in("plumb", "apply", "--yes")) // nothing to do
	if log, err := os.ReadFile(s.log.Name()); err != nil || strings.Contains(string(log), "panic") || strings.Contains(string(log), "goroutine ") {
		t.Errorf("a daemon died by itself: %v", err)
	}
}

func newSoak(t *testing.T) *soak {
	s := &soak{T: t, dir: t.TempDir(), rnd: rand.New(rand.NewPCG(*soakSeed, 2)), interval: "2s", count: map[string]int{}}
	s.write(soakFiles)
	nodes, err := lab.NodesOf(&schema.Config{Nodes: map[string]schema.Node{"edge-1": {Uplinks: []string{"eth0"}, PodCIDRs: []string{"10.0.0.0/24"}}}})
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
	s.strangers()
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
	s.daemon = s.in("plumb", "run", "--interval", s.interval, "--allow-disruption", "--allow-delete")
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

// edit writes the files anew: valid, not valid, or half.
func (s *soak) edit() {
	what := "other files"
	switch n := s.rnd.IntN(12); n {
	case 0:
		what = "half-written files"
		s.write(soakFiles[:s.rnd.IntN(len(soakFiles))] + "\n{") // at the end of a line half of it would be valid
	case 1:
		what = "wrong files"
		s.write(soakFiles + "pods: web: nonsense: 1\n")
	case 2:
		what = "missing files"
		_ = os.Remove(filepath.Join(s.dir, "plumb.cue"))
	case 3:
		what = "the same files"
		s.write(soakFiles)
	case 4, 5, 6:
		what = "services by nftables"
		s.write(fmt.Sprintf(soakBase, "random") + "routing: services: \"nftables\"\n")
	case 7:
		what = "larger maps"
		s.write(soakFiles + fmt.Sprintf("tuning: maps: services: %d\n", 100+s.rnd.IntN(1000)))
	case 8:
		what = "another attachment"
		s.write(strings.Replace(soakFiles, `attach: "bridge"`, `attach: "veth"`, 1))
	default:
		s.write(soakFiles + fmt.Sprintf("pods: more%d: addresses: [\"10.0.0.%d\"]\nservices: web: sourceRanges: deny: []\n", n, 30+n))
	}
	s.count[what]++
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
