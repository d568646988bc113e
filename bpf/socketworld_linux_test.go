package bpf

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/internal/netns"
)

// variant is one way to have the socket programs.
type variant struct {
	name    string
	load    func() (*ebpf.CollectionSpec, error)
	retval  bool // bpf_set_retval is used
	legacy  bool // attached without a link
	without string
}

// world is a cgroup that the test process is in, with the programs on it, and the namespaces of a pod, of one that isn't
// the node's, and of another pod. Backends listen in the first.
type world struct {
	*ebpf.Collection
	variant
	pod, stranger, other *os.File
	cookie, otherCookie  uint64 // of pod and other
}

const patience = 20 * time.Second

func newWorld(t *testing.T, v variant) *world {
	t.Helper()
	kindtest.NeedRoot(t)
	spec, err := v.load()
	if err != nil {
		t.Fatal(err)
	}
	if !v.retval {
		for _, p := range spec.Programs {
			dropCalls(p, asm.FnSetRetval)
		}
	}
	for name, m := range spec.Maps {
		if m.Type == ebpf.Hash || m.Type == ebpf.LRUHash {
			m.MaxEntries = 4096
		}
		if !usedBySockets[name] {
			delete(spec.Maps, name)
		}
	}
	w := &world{variant: v, pod: kindtest.Namespace(t), stranger: kindtest.Namespace(t), other: kindtest.Namespace(t)}
	w.Collection = collection(t, spec)
	t.Cleanup(w.Close)
	cgroup := enterCgroup(t)
	for name, p := range w.Programs {
		if strings.Contains(v.without, name) {
			continue
		}
		attach(t, cgroup, p, spec.Programs[name].AttachType, v.legacy)
	}
	w.cookie, w.otherCookie = cookieOf(t, w.pod), cookieOf(t, w.other)
	for _, c := range []uint64{w.cookie, w.otherCookie} {
		w.put(t, "namespaces", c, uint32(1))
	}
	for _, ns := range []*os.File{w.pod, w.stranger, w.other} {
		setUp(t, ns, "10.0.0.1/32", "10.0.0.2/32", "10.0.0.3/32", "fd00::1/128", "fd00::2/128", "fd00::3/128")
	}
	for _, ns := range []*os.File{w.pod, w.other} {
		for _, b := range append(backends4[:], backends6[:]...) {
			listen(t, ns, b)
		}
	}
	return w
}

// usedBySockets are the maps that the socket programs use.
var usedBySockets = map[string]bool{"frontends": true, "slots": true, "members": true, "affinities": true, "namespaces": true,
	"sock_forward": true, "sock_reverse": true, "maglev_2039s": true, "maglev_4093s": true, "maglev_16381s": true,
	"maglev_65521s": true, "maglev_131071s": true}

// collection loads an object. Before 5.11 maps count as locked memory.
func collection(t *testing.T, spec *ebpf.CollectionSpec) *ebpf.Collection {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatalf("load: %+v", err)
	}
	return c
}

// enterCgroup moves this process into a cgroup of its own until the test ends: sockets belong to the one that they are
// made in.
func enterCgroup(t *testing.T) string {
	t.Helper()
	mount, err := host.Mount("cgroup2")
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	_, path, found := strings.Cut(string(data), "0::")
	if !found {
		t.Fatalf("this process is in no cgroup2: %s", data)
	}
	before := filepath.Join(mount, strings.TrimSpace(path))
	dir, err := os.MkdirTemp(mount, "plumb-socket-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(filepath.Join(before, "cgroup.procs"), []byte("0"), 0); err != nil {
			t.Errorf("leave the test's cgroup: %v", err)
		}
		if err := os.Remove(dir); err != nil {
			t.Errorf("remove the test's cgroup: %v", err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
		t.Fatal(err)
	}
	return dir
}

func attach(t *testing.T, cgroup string, p *ebpf.Program, at ebpf.AttachType, legacy bool) {
	t.Helper()
	if !legacy {
		l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: at, Program: p})
		if err != nil {
			t.Fatalf("attach %v: %v", at, err)
		}
		t.Cleanup(func() { l.Close() })
		return
	}
	f, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(f.Fd()), Program: p, Attach: at,
		Flags: unix.BPF_F_ALLOW_MULTI}); err != nil {
		t.Fatalf("attach %v: %v", at, err)
	}
	t.Cleanup(func() {
		if err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(f.Fd()), Program: p, Attach: at}); err != nil {
			t.Errorf("detach %v: %v", at, err)
		}
	})
}

func cookieOf(t *testing.T, ns *os.File) uint64 {
	t.Helper()
	h := kindtest.Open(t, host.Options{RootNS: fmt.Sprintf("/proc/self/fd/%d", ns.Fd())})
	root, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	cookies, err := h.Cookies(root)
	if err != nil {
		t.Fatal(err)
	}
	return cookies[0]
}

// within runs fn in a namespace.
func within(t *testing.T, ns *os.File, fn func() error) {
	t.Helper()
	if err := netns.Do(int(ns.Fd()), fn); err != nil {
		t.Fatal(err)
	}
}

func setUp(t *testing.T, ns *os.File, addresses ...string) {
	t.Helper()
	within(t, ns, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		lo, err := h.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := h.LinkSetUp(lo); err != nil {
			return err
		}
		for _, a := range addresses {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			if addr.IP.To4() == nil {
				addr.Flags = unix.IFA_F_NODAD // else nobody can listen there for a moment
			}
			if err := h.AddrAdd(lo, addr); err != nil {
				return fmt.Errorf("add %s: %w", a, err)
			}
			if err := delivered(h, addr.IP); err != nil {
				return fmt.Errorf("add %s: %w", a, err)
			}
		}
		return nil
	})
}

// delivered waits until what is sent to an address arrives: the kernel adds that route of IPv6 in its own time.
func delivered(h *netlink.Handle, to net.IP) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); ; <-tick.C {
		routes, err := h.RouteGet(to)
		if err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("no route of type local after %v: %v", patience, routes), err)
		}
	}
}

// listen answers whoever connects or sends a datagram with the address that it was found at.
func listen(t *testing.T, ns *os.File, at netip.AddrPort) {
	t.Helper()
	within(t, ns, func() error {
		l, err := net.Listen("tcp", at.String())
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go func() {
					defer c.Close()
					fmt.Fprint(c, at)
					io.Copy(io.Discard, c)
				}()
			}
		}()
		p, err := net.ListenPacket("udp", at.String())
		if err != nil {
			return err
		}
		t.Cleanup(func() { p.Close() })
		go func() {
			for {
				_, from, err := p.ReadFrom(make([]byte, 64))
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					p.WriteTo([]byte(at.String()), from)
				}
			}
		}()
		return nil
	})
}

func (w *world) put(t *testing.T, name string, key, value any) {
	t.Helper()
	if err := w.Maps[name].Put(key, value); err != nil {
		t.Fatalf("write %s: %v", name, err)
	}
}

// clear forgets services and clients.
func (w *world) clear(t *testing.T) {
	t.Helper()
	for _, name := range []string{"frontends", "slots", "members", "affinities", "sock_forward", "sock_reverse"} {
		m := w.Maps[name]
		for {
			key, err := m.NextKeyBytes(nil)
			if err != nil {
				t.Fatal(err)
			}
			if key == nil {
				break
			}
			if err := m.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
				t.Fatal(err)
			}
		}
	}
}

// front is a service.
type front struct {
	at        netip.AddrPort
	proto     uint8
	algorithm uint8 // 0: random
	affinity  uint32
	class     uint8
	slots     []netip.AddrPort
	behind    []netip.AddrPort // get nothing new
}

func id(proto uint8, at netip.AddrPort) uint64 {
	h := fnv.New64()
	fmt.Fprint(h, proto, at)
	return h.Sum64()
}

func (w *world) serve(t *testing.T, f front) {
	t.Helper()
	service := id(f.proto, f.at)
	for i, b := range append(append([]netip.AddrPort(nil), f.slots...), f.behind...) {
		state := uint8(Active)
		if i >= len(f.slots) {
			state = Terminating
		} else {
			w.put(t, "members", MemberKey{service, id(f.proto, b)}, uint32(i))
		}
		w.put(t, "slots", SlotKey{Service: service, Slot: uint32(i)},
			Backend{Addr: AddressOf(b.Addr()), ID: id(f.proto, b), Port: PortOf(b.Port()), Weight: 1, State: state})
	}
	value := Frontend{Service: service, Slots: uint32(len(f.slots)), Affinity: f.affinity, Algorithm: f.algorithm, Class: f.class}
	if value.Algorithm == 0 {
		value.Algorithm = Random
	}
	if f.algorithm == Maglev {
		value.Size = uint32(MaglevClasses[f.class])
	}
	w.put(t, "frontends", FrontendKey{Addr: AddressOf(f.at.Addr()), Port: PortOf(f.at.Port()), Proto: f.proto}, value)
}
