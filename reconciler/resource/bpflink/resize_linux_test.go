package bpflink_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpflink"
	"plumb.internal/plumb/reconciler/resource/bpfmap"
	"plumb.internal/plumb/reconciler/resource/bpfprog"
)

// pair is a veth pair from the root namespace of a host to another one, with an address at each end.
func pair(t *testing.T, h *host.Host) (near, far *host.NS) {
	t.Helper()
	there := kindtest.Namespace(t)
	other := kindtest.Open(t, host.Options{RootNS: fmt.Sprintf("/proc/self/fd/%d", there.Fd())})
	near, err := h.NS("")
	if err == nil {
		far, err = other.NS("")
	}
	if err != nil {
		t.Fatal(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "a"
	if err := near.Handle().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "b", PeerNamespace: netlink.NsFd(int(there.Fd()))}); err != nil {
		t.Fatal(err)
	}
	for _, end := range []struct {
		ns         *host.NS
		name, addr string
	}{{near, "a", "10.9.0.1/24"}, {far, "b", "10.9.0.2/24"}} {
		l, err := end.ns.Link(end.name)
		if err != nil {
			t.Fatal(err)
		}
		addr, err := netlink.ParseAddr(end.addr)
		if err == nil {
			err = end.ns.Handle().AddrAdd(l, addr)
		}
		if err == nil {
			err = end.ns.Handle().LinkSetUp(l)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return near, far
}

// stream asks and is answered, one datagram after the other, until it is told to stop. It returns how many were asked, and
// the error of the first that wasn't answered.
func stream(t *testing.T, near, far *host.NS, stop <-chan struct{}) <-chan error {
	t.Helper()
	var echo net.PacketConn
	var ask net.Conn
	if err := near.Do(func() (err error) { echo, err = net.ListenPacket("udp4", "10.9.0.1:7"); return err }); err != nil {
		t.Fatal(err)
	}
	if err := far.Do(func() (err error) { ask, err = net.Dial("udp4", "10.9.0.1:7"); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { echo.Close(); ask.Close() })
	go func() {
		b := make([]byte, 100)
		for {
			n, from, err := echo.ReadFrom(b)
			if err != nil {
				return
			}
			if _, err := echo.WriteTo(b[:n], from); err != nil {
				return
			}
		}
	}()
	done := make(chan error, 1)
	go func() {
		b := make([]byte, 100)
		for i := 0; ; i++ {
			select {
			case <-stop:
				if i < 100 {
					done <- fmt.Errorf("only %d datagrams", i)
				}
				close(done)
				return
			default:
			}
			want := fmt.Sprint(i)
			_, err := ask.Write([]byte(want))
			if err == nil {
				err = ask.SetReadDeadline(time.Now().Add(5 * time.Second))
			}
			n := 0
			if err == nil {
				n, err = ask.Read(b)
			}
			if err == nil && string(b[:n]) != want {
				err = fmt.Errorf("the answer is %q", b[:n])
			}
			if err != nil {
				done <- fmt.Errorf("datagram %d: %w", i, err)
				return
			}
		}
	}()
	return done
}

// sized is a state with one program on both hooks of a device, and maps of a size.
func sized(t *testing.T, way string, entries int) resource.State {
	t.Helper()
	s := resource.State{}
	var ids []resource.ID
	for base := range bpf.Layouts {
		n := entries
		switch base {
		case "counters":
			n = len(bpf.Counters)
		case "swept":
			n = 1
		}
		m := bpfmap.Of(base, n, "")
		ids = append(ids, m.ID())
		if err := s.Add(m); err != nil {
			t.Fatal(err)
		}
	}
	for program, hook := range map[string]string{"from_pod": bpflink.Ingress, "to_pod": bpflink.Egress} {
		p := bpfprog.Of("packet", program, map[string]uint32{"redirect": 0, "source_check": 0}, ids, "")
		if err := s.Add(p, bpflink.Attachment{Dev: "a", Hook: hook, Way: way, Program: p.ID()}); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// Maps get another size while packets go through: what they hold is in the new ones, the programs are the new ones, the old
// of both are gone, and no packet is lost.
func TestResize(t *testing.T) {
	for _, way := range []string{bpflink.TCX, bpflink.Clsact} {
		t.Run(way, func(t *testing.T) {
			kindtest.NeedRoot(t)
			if way == bpflink.TCX {
				tcx(t)
			}
			h := kindtest.Root(t)
			kindtest.BPFFS(t, h)
			near, far := pair(t, h)
			converge := func(s resource.State) {
				t.Helper()
				if err := reconciler.Converge(t.Context(), h, s); err != nil {
					t.Fatal(err)
				}
			}
			sizes := []int{64, 256, 128}
			converge(sized(t, way, sizes[0]))
			now, err := bpf.SinceBoot()
			if err != nil {
				t.Fatal(err)
			}
			// An apply forgets flows that are over.
			key := bpf.FlowKey{Proto: bpf.TCP, Sport: bpf.PortOf(4242)}
			want := bpf.Flow{Service: 7, Backend: 9, Kind: bpf.FlowForward, State: bpf.FlowEstablished, Seen: uint32(now / time.Second)}
			ms, err := h.BPFMaps("flows")
			if err != nil || len(ms) != 1 {
				t.Fatalf("%d maps of flows: %v", len(ms), err)
			}
			if err := ms[0].Put(key, want); err != nil {
				t.Fatal(err)
			}
			stop := make(chan struct{})
			lost := stream(t, near, far, stop)
			for i := range 6 {
				s := sized(t, way, sizes[i%len(sizes)])
				converge(s)
				n := h.Writes()
				converge(s)
				if h.Writes() != n {
					t.Errorf("%d writes where there was nothing to do", h.Writes()-n)
				}
				ms, err := h.BPFMaps("flows")
				if err != nil || len(ms) != 1 || ms[0].MaxEntries() != uint32(sizes[i%len(sizes)]) {
					t.Fatalf("%d maps of flows: %v", len(ms), err)
				}
				var got bpf.Flow
				if err := ms[0].Lookup(key, &got); err != nil || got != want {
					t.Errorf("the flow became %+v: %v", got, err)
				}
			}
			close(stop)
			if err := <-lost; err != nil {
				t.Error(err)
			}
			p, _, err := reconciler.PlanDestroy(t.Context(), h)
			if err == nil {
				err = reconciler.Destroy(t.Context(), h, p, reconciler.ApplyOptions{})
			}
			if err != nil {
				t.Fatal(err)
			}
			if names, err := h.BPFNames(); err != nil || len(names) > 0 {
				t.Errorf("left: %q, %v", names, err)
			}
		})
	}
}

// Attachments as a plan sees them that has nothing to do. The kernel takes its time to make one by tcx: there are only two
// hundred devices, and what counts is processor time an attachment.
func BenchmarkObserve(b *testing.B) {
	kindtest.NeedRoot(b)
	h := kindtest.Root(b)
	kindtest.BPFFS(b, h)
	if err := h.MakeBPFFolder(host.BPFProgramFolder); err != nil {
		b.Fatal(err)
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "tc", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	if err := p.Pin(h.BPFPath(host.BPFProgramFolder, "tc.1")); err != nil {
		b.Fatal(err)
	}
	ns, err := h.NS("")
	if err != nil {
		b.Fatal(err)
	}
	var wanted []bpflink.Attachment
	for i := range 200 {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = fmt.Sprintf("d%d", i)
		if err := ns.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			b.Fatal(err)
		}
		for _, hook := range []string{bpflink.Ingress, bpflink.Egress} {
			a := bpflink.Attachment{Dev: attrs.Name, Hook: hook, Way: bpflink.TCX, Program: program("tc.1"),
				Link: resource.ID{Kind: "link", Name: attrs.Name}}
			if err := ops.Create(b.Context(), h, a); err != nil {
				b.Fatal(err)
			}
			wanted = append(wanted, a)
		}
	}
	var began, ended unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &began); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		h.Forget() // the dump of the links is counted too
		owned, _, err := ops.Observe(b.Context(), h, wanted)
		if err != nil || len(owned) != len(wanted) {
			b.Fatalf("%d: %v", len(owned), err)
		}
	}
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ended); err != nil {
		b.Fatal(err)
	}
	used := ended.Utime.Nano() + ended.Stime.Nano() - began.Utime.Nano() - began.Stime.Nano()
	b.ReportMetric(float64(used)/1000/float64(b.N)/float64(len(wanted)), "cpu-µs/attachment")
}
