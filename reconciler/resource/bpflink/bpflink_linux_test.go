package bpflink_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpflink"
)

var ops bpflink.Ops

func program(name string) resource.ID { return resource.ID{Kind: "bpfprog", Name: name} }

// counting makes a program that counts its runs and lets everything pass, to whoever comes next.
func counting(t *testing.T, kind ebpf.ProgramType, at ebpf.AttachType) (*ebpf.Program, func() uint64) {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "runs.rodata", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	name, pass := "tc", int32(-1) // as the pins have it
	switch kind {
	case ebpf.CGroupSockAddr:
		name, pass = "connect4", 1
	case ebpf.XDP:
		name, pass = "xdp", 2
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: kind, AttachType: at, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, 0),
		asm.StoreMem(asm.RFP, -4, asm.R0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, m.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, pass).WithSymbol("out"),
		asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p, func() (n uint64) {
		t.Helper()
		if err := m.Lookup(uint32(0), &n); err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// pinned are two programs of ours for each hook that the tests use, and how often they ran.
func pinned(t *testing.T, h *host.Host) map[string]func() uint64 {
	t.Helper()
	kindtest.BPFFS(t, h)
	if err := h.MakeBPFFolder(host.BPFProgramFolder); err != nil {
		t.Fatal(err)
	}
	runs := map[string]func() uint64{}
	for _, name := range []string{"tc.1", "tc.2", "connect4.1", "connect4.2", "xdp.1", "xdp.2"} {
		kind, at := ebpf.SchedCLS, ebpf.AttachNone
		if strings.HasPrefix(name, "connect4") {
			kind, at = ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect
		}
		if strings.HasPrefix(name, "xdp") {
			kind = ebpf.XDP
		}
		p, count := counting(t, kind, at)
		if err := p.Pin(h.BPFPath(host.BPFProgramFolder, name)); err != nil {
			t.Fatal(err)
		}
		runs[name] = count
	}
	return runs
}

// cgroup makes a cgroup for the length of a test, below the one that the test is in.
func cgroup(t *testing.T, h *host.Host) {
	t.Helper()
	top, err := host.Mount("cgroup2")
	if err != nil {
		if os.Getenv("CI") == "" {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(top, "plumb-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	h.Cgroup = dir
}

func tcx(t *testing.T) {
	t.Helper()
	p, _ := counting(t, ebpf.SchedCLS, ebpf.AttachNone)
	l, err := link.AttachTCX(link.TCXOptions{Interface: 1, Program: p, Attach: ebpf.AttachTCXIngress})
	if err == nil {
		l.Close()
	}
	if errors.Is(err, link.ErrNotSupported) {
		t.Skip(err)
	}
}

func observe(t *testing.T, h *host.Host, wanted ...bpflink.Attachment) (owned, foreign []bpflink.Attachment) {
	t.Helper()
	h.Forget()
	owned, foreign, err := ops.Observe(t.Context(), h, wanted)
	if err != nil {
		t.Fatal(err)
	}
	return owned, foreign
}

func eth0(way, hook, name string) bpflink.Attachment {
	return bpflink.Attachment{Dev: "eth0", Hook: hook, Way: way, Program: program(name)}
}

func connect4(way, name string) bpflink.Attachment {
	return bpflink.Attachment{Hook: "connect4", Way: way, Program: program(name)}
}

func TestTCX(t *testing.T) {
	kindtest.NeedRoot(t)
	tcx(t)
	kindtest.Run(t, kindtest.Kind[bpflink.Attachment]{Ops: ops, Setup: func(t *testing.T, h *host.Host) { pinned(t, h) },
		Samples: []bpflink.Attachment{eth0(bpflink.TCX, bpflink.Ingress, "tc.1"), eth0(bpflink.TCX, bpflink.Ingress, "tc.2"),
			eth0(bpflink.TCX, bpflink.Egress, "tc.1"), eth0(bpflink.Clsact, bpflink.Ingress, "tc.1")}})
}

func TestClsact(t *testing.T) {
	kindtest.Run(t, kindtest.Kind[bpflink.Attachment]{Ops: ops, Setup: func(t *testing.T, h *host.Host) { pinned(t, h) },
		Samples: []bpflink.Attachment{eth0(bpflink.Clsact, bpflink.Ingress, "tc.1"), eth0(bpflink.Clsact, bpflink.Ingress, "tc.2"),
			eth0(bpflink.Clsact, bpflink.Egress, "tc.1")}})
}

func TestCgroup(t *testing.T) {
	for _, way := range []string{bpflink.Link, bpflink.Attach} {
		t.Run(way, func(t *testing.T) {
			kindtest.Run(t, kindtest.Kind[bpflink.Attachment]{Ops: ops,
				Setup: func(t *testing.T, h *host.Host) { pinned(t, h); cgroup(t, h) },
				Samples: []bpflink.Attachment{connect4(way, "connect4.1"), connect4(way, "connect4.2"),
					connect4(map[string]string{bpflink.Link: bpflink.Attach, bpflink.Attach: bpflink.Link}[way], "connect4.1")},
				// A program that lets no other be beside it.
				Foreign: func(t *testing.T, h *host.Host, r bpflink.Attachment) func(t *testing.T) {
					p, _ := counting(t, ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect)
					dir, err := os.Open(h.Cgroup)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { dir.Close() })
					if err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(dir.Fd()), Program: p,
						Attach: ebpf.AttachCGroupInet4Connect}); err != nil {
						t.Fatal(err)
					}
					return func(t *testing.T) {
						if err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(dir.Fd()), Program: p,
							Attach: ebpf.AttachCGroupInet4Connect}); err != nil {
							t.Errorf("the foreign program is gone: %v", err)
						}
					}
				},
			})
		})
	}
}

// send lets a packet leave by eth0.
func send(t *testing.T, h *host.Host) {
	t.Helper()
	sendBy(t, h, "eth0")
}

func sendBy(t *testing.T, h *host.Host, dev string) {
	t.Helper()
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	l, err := ns.Link(dev)
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() error {
		s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		frame := append(append([]byte{}, append(l.HardwareAddr, l.HardwareAddr...)...), make([]byte, 50)...)
		frame[12], frame[13] = 0x88, 0xb5 // for experiments
		return unix.Sendto(s, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Index, Protocol: 0xb588})
	}); err != nil {
		t.Fatal(err)
	}
}

// Somebody else's programs on the same hook stay, run before ours, and see every packet that ours sees; one behind ours is
// warned of.
func TestBesideOthers(t *testing.T) {
	for _, way := range []string{bpflink.TCX, bpflink.Clsact} {
		t.Run(way, func(t *testing.T) {
			kindtest.NeedRoot(t)
			if way == bpflink.TCX {
				tcx(t)
			}
			h := kindtest.Root(t)
			runs := pinned(t, h)
			theirs, count := counting(t, ebpf.SchedCLS, ebpf.AttachNone)
			ns, index, err := h.Device("", "eth0")
			if err != nil {
				t.Fatal(err)
			}
			attach := func() {
				t.Helper()
				if way == bpflink.TCX {
					err := ns.Do(func() error {
						l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: theirs, Attach: ebpf.AttachTCXEgress})
						if err == nil {
							t.Cleanup(func() { l.Close() })
						}
						return err
					})
					if err != nil {
						t.Fatal(err)
					}
					return
				}
				q := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0),
					Parent: netlink.HANDLE_CLSACT}}
				if err := ns.Handle().QdiscAdd(q); err != nil {
					t.Fatal(err)
				}
				if err := ns.Handle().FilterAdd(&netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{LinkIndex: index,
					Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Priority: 1, Protocol: unix.ETH_P_ALL}, Fd: theirs.FD(),
					Name: "theirs", DirectAction: true}); err != nil {
					t.Fatal(err)
				}
			}
			attach()
			a := eth0(way, bpflink.Egress, "tc.1")
			check := func(what string, ours func() uint64) {
				t.Helper()
				was, had := count(), uint64(0)
				if ours != nil {
					had = ours()
				}
				send(t, h)
				if got := count() - was; got == 0 {
					t.Errorf("%s: the foreign program doesn't run", what)
				} else if ours != nil && ours()-had != got {
					t.Errorf("%s: the foreign program ran %d times, ours %d", what, got, ours()-had)
				}
			}
			check("before", nil)
			if err := ops.Create(t.Context(), h, a); err != nil {
				t.Fatal(err)
			}
			check("attached", runs["tc.1"])
			if w := h.Warnings(); len(w) > 0 {
				t.Errorf("warned: %q", w)
			}
			b := a
			b.Program = program("tc.2")
			if err := ops.Update(t.Context(), h, a, b); err != nil {
				t.Fatal(err)
			}
			check("replaced", runs["tc.2"])
			if way == bpflink.TCX {
				attachBehind(t, ns, index)
				observe(t, h, b)
				if w := h.Warnings(); len(w) != 1 || !strings.Contains(w[0], "behind") {
					t.Errorf("warned: %q", w)
				}
			}
			if err := ops.Delete(t.Context(), h, b); err != nil {
				t.Fatal(err)
			}
			n1, n2 := runs["tc.1"](), runs["tc.2"]()
			check("deleted", nil)
			if runs["tc.1"]() != n1 || runs["tc.2"]() != n2 {
				t.Error("ours still run")
			}
		})
	}
}

func attachBehind(t *testing.T, ns *host.NS, index int) {
	t.Helper()
	p, _ := counting(t, ebpf.SchedCLS, ebpf.AttachNone)
	if err := ns.Do(func() error {
		l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: p, Attach: ebpf.AttachTCXEgress})
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// The qdisc goes with the last filter if plumb made it, and stays if it didn't.
func TestQdisc(t *testing.T) {
	h := kindtest.Root(t)
	pinned(t, h)
	ns, index, err := h.Device("", "eth0")
	if err != nil {
		t.Fatal(err)
	}
	has := func() bool {
		t.Helper()
		list, err := ns.Handle().QdiscList(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}})
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range list {
			if q.Type() == "clsact" {
				return true
			}
		}
		return false
	}
	in, out := eth0(bpflink.Clsact, bpflink.Ingress, "tc.1"), eth0(bpflink.Clsact, bpflink.Egress, "tc.1")
	round := func(stays bool) {
		t.Helper()
		for _, a := range []bpflink.Attachment{in, out} {
			if err := ops.Create(t.Context(), h, a); err != nil {
				t.Fatal(err)
			}
		}
		for i, a := range []bpflink.Attachment{in, out} {
			if err := ops.Delete(t.Context(), h, a); err != nil {
				t.Fatal(err)
			}
			if want := i == 0 || stays; has() != want {
				t.Errorf("after %d deletes: there is a qdisc: %v", i+1, has())
			}
		}
	}
	round(false)
	q := &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
	if err := ns.Handle().QdiscAdd(q); err != nil {
		t.Fatal(err)
	}
	round(true)
	if names, err := h.BPFNames(host.BPFLinkFolder, "_root"); err != nil || len(names) > 0 {
		t.Errorf("left: %q, %v", names, err)
	}
}

// What somebody removed by hand, or plumb hadn't finished, is found by what is left of it, and goes; nothing stays in the
// folder, on the device or in the cgroup.
func TestRests(t *testing.T) {
	const in, out, mark = "eth0:ingress", "eth0:egress", "eth0:qdisc"
	root := func(h *host.Host, name string) string {
		return filepath.Join(h.BPFPath(host.BPFLinkFolder, "_root"), name)
	}
	tests := map[string]func(h *host.Host) error{
		"ingress file":  func(h *host.Host) error { return os.Remove(root(h, in)) },
		"egress file":   func(h *host.Host) error { return os.Remove(root(h, out)) },
		"both files":    func(h *host.Host) error { return errors.Join(os.Remove(root(h, in)), os.Remove(root(h, out))) },
		"mark":          func(h *host.Host) error { return os.Remove(root(h, mark)) },
		"half a record": func(h *host.Host) error { return os.Symlink("clsact", root(h, in+"~")) },
		"half a mark":   func(h *host.Host) error { return os.Rename(root(h, mark), root(h, mark+"~")) },
		"files and device": func(h *host.Host) error {
			ns, index, err := h.Device("", "eth0")
			if err != nil {
				return err
			}
			return errors.Join(os.Remove(root(h, in)), os.Remove(root(h, out)),
				ns.Handle().LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}))
		},
	}
	for name, harm := range tests {
		t.Run(name, func(t *testing.T) {
			h := kindtest.Root(t)
			runs := pinned(t, h)
			for _, hook := range []string{bpflink.Ingress, bpflink.Egress} {
				if err := ops.Create(t.Context(), h, eth0(bpflink.Clsact, hook, "tc.1")); err != nil {
					t.Fatal(err)
				}
			}
			if err := harm(h); err != nil {
				t.Fatal(err)
			}
			owned, _ := observe(t, h)
			for _, a := range owned {
				if err := ops.Delete(t.Context(), h, a); err != nil {
					t.Fatal(err)
				}
			}
			if owned, _ := observe(t, h); len(owned) > 0 {
				t.Errorf("owned: %+v", owned)
			}
			if names, err := h.BPFNames(host.BPFLinkFolder, "_root"); err != nil || len(names) > 0 {
				t.Errorf("left: %q, %v", names, err)
			}
			if name == "files and device" {
				return
			}
			n := runs["tc.1"]()
			send(t, h)
			if runs["tc.1"]() != n {
				t.Error("it still runs")
			}
		})
	}
	t.Run("half a record of the cgroup", func(t *testing.T) {
		h := kindtest.Root(t)
		pinned(t, h)
		cgroup(t, h)
		if err := h.MakeBPFFolder(host.BPFLinkFolder, "_cgroup"); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("attach 1 "+h.Cgroup, filepath.Join(h.BPFPath(host.BPFLinkFolder, "_cgroup"), "connect4~")); err != nil {
			t.Fatal(err)
		}
		owned, _ := observe(t, h)
		if len(owned) != 1 || owned[0].Hook != "connect4" {
			t.Fatalf("owned: %+v", owned)
		}
		if err := ops.Delete(t.Context(), h, owned[0]); err != nil {
			t.Fatal(err)
		}
		if names, err := h.BPFNames(host.BPFLinkFolder, "_cgroup"); err != nil || len(names) > 0 {
			t.Errorf("left: %q, %v", names, err)
		}
	})
}

// The device of a pin is replaced by another one of its name: what is left is seen as detached, and attached again. Without
// a device only the file can go. A pod's attachment is on the pod's own device, whatever the root has under its index.
func TestDeviceReplaced(t *testing.T) {
	for _, way := range []string{bpflink.TCX, bpflink.Clsact} {
		for _, pod := range []string{"", "web"} {
			t.Run(way+" "+pod, func(t *testing.T) {
				kindtest.NeedRoot(t)
				if way == bpflink.TCX {
					tcx(t)
				}
				h := kindtest.Root(t)
				pinned(t, h)
				if pod != "" {
					kindtest.Pod(t, h, pod)
				}
				ns, err := h.NS(pod)
				if err != nil {
					t.Fatal(err)
				}
				attrs := netlink.NewLinkAttrs()
				attrs.Name = "d0.5" // a dot, which files on a BPF file system can't have
				add := func() {
					t.Helper()
					if err := ns.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
						t.Fatal(err)
					}
				}
				del := func() {
					t.Helper()
					l, err := ns.Link("d0.5")
					if err == nil {
						err = ns.Handle().LinkDel(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: l.Index}})
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				a := bpflink.Attachment{NetNS: pod, Dev: "d0.5", Hook: bpflink.Ingress, Way: way, Program: program("tc.1")}
				add()
				if err := ops.Create(t.Context(), h, a); err != nil {
					t.Fatal(err)
				}
				if owned, _ := observe(t, h); len(owned) != 1 || !reflect.DeepEqual(owned[0], a) {
					t.Fatalf("owned: %+v", owned)
				}
				if err := ops.Create(t.Context(), h, a); err == nil {
					t.Error("a second create succeeds")
				}
				del()
				for _, there := range []bool{false, true} {
					if there {
						add()
					}
					owned, _ := observe(t, h, a)
					if len(owned) != 1 || owned[0].Fault == "" {
						t.Fatalf("device there %v: owned: %+v", there, owned)
					}
				}
				if err := ops.Create(t.Context(), h, a); err != nil { // as the reconciler does with a replaced device
					t.Fatal(err)
				}
				if owned, _ := observe(t, h); len(owned) != 1 || !reflect.DeepEqual(owned[0], a) {
					t.Fatalf("owned: %+v", owned)
				}
				del()
				if err := ops.Delete(t.Context(), h, a); err != nil {
					t.Fatal(err)
				}
				if owned, _ := observe(t, h); len(owned) != 0 {
					t.Errorf("owned: %+v", owned)
				}
				if _, err := os.Lstat(h.BPFPath(host.BPFLinkFolder, "web")); err == nil {
					t.Error("the pod's folder is left")
				}
			})
		}
	}
}

// A second copy of a program of ours on a hook is found and goes; the right one runs on.
func TestTwice(t *testing.T) {
	kindtest.NeedRoot(t)
	tcx(t)
	h := kindtest.Root(t)
	runs := pinned(t, h)
	a := eth0(bpflink.TCX, bpflink.Egress, "tc.1")
	if err := ops.Create(t.Context(), h, a); err != nil {
		t.Fatal(err)
	}
	ns, index, err := h.Device("", "eth0")
	if err != nil {
		t.Fatal(err)
	}
	p, err := h.BPFProgram("tc.2")
	if err != nil {
		t.Fatal(err)
	}
	if err := ns.Do(func() error {
		l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: p, Attach: ebpf.AttachTCXEgress})
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	owned, _ := observe(t, h, a)
	if len(owned) != 1 || owned[0].Fault != "attached twice" {
		t.Fatalf("owned: %+v", owned)
	}
	if err := ops.Update(t.Context(), h, owned[0], a); err != nil {
		t.Fatal(err)
	}
	if owned, _ := observe(t, h, a); len(owned) != 1 || !reflect.DeepEqual(owned[0], a) {
		t.Errorf("owned: %+v", owned)
	}
	one, two := runs["tc.1"](), runs["tc.2"]()
	send(t, h)
	if runs["tc.1"]() == one || runs["tc.2"]() != two {
		t.Error("the wrong one is gone")
	}
}

// The cgroup's programs run for sockets in it, beside those of somebody else, and move with --cgroup.
func TestCgroupRuns(t *testing.T) {
	for _, way := range []string{bpflink.Link, bpflink.Attach} {
		t.Run(way, func(t *testing.T) {
			h := kindtest.Root(t)
			runs := pinned(t, h)
			cgroup(t, h)
			first := h.Cgroup
			a := connect4(way, "connect4.1")
			if err := ops.Create(t.Context(), h, a); err != nil {
				t.Fatal(err)
			}
			connect(t, h.Cgroup)
			if runs["connect4.1"]() == 0 {
				t.Error("it doesn't run")
			}
			cgroup(t, h)
			if owned, _ := observe(t, h, a); len(owned) != 1 || owned[0].Fault != "on another device" {
				t.Errorf("owned: %+v", owned)
			}
			if err := ops.Update(t.Context(), h, a, a); err != nil {
				t.Fatal(err)
			}
			n := runs["connect4.1"]()
			connect(t, first)
			if runs["connect4.1"]() != n {
				t.Error("it still runs for the first cgroup")
			}
			connect(t, h.Cgroup)
			if runs["connect4.1"]() == n {
				t.Error("it doesn't run for the second cgroup")
			}
			if err := ops.Delete(t.Context(), h, a); err != nil {
				t.Fatal(err)
			}
			n = runs["connect4.1"]()
			connect(t, h.Cgroup)
			if runs["connect4.1"]() != n {
				t.Error("it still runs")
			}
		})
	}
}

// connect connects a UDP socket that was made in a cgroup.
func connect(t *testing.T, dir string) {
	t.Helper()
	top := filepath.Dir(dir)
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
	enter := func(dir string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			t.Fatal(err)
		}
	}
	enter(dir)
	defer enter(home)
	c, err := net.Dial("udp4", "127.0.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}
