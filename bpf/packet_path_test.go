package bpf

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/kindtest"
)

// Answers of programs.
const (
	pass     = ^uint32(0)
	shot     = 2
	redirect = 7
)

// skb is the start of struct __sk_buff.
type skb struct {
	Len, PktType, Mark, QueueMapping, Protocol, VlanPresent, VlanTCI, VlanProto, Priority, IngressIfindex, Ifindex uint32
}

// path is the packet programs with maps of their own. All of them see device 1, lo.
type path struct {
	*ebpf.Collection
	t testing.TB
}

func newPath(t testing.TB, object string, settings map[string]uint32) *path {
	t.Helper()
	p := &path{load(t, object, settings), t}
	t.Cleanup(p.Close)
	return p
}

// load loads an object with maps of its own.
func load(t testing.TB, object string, settings map[string]uint32) (c *ebpf.Collection) {
	t.Helper()
	kindtest.NeedRoot(t)
	spec, err := Spec(object)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range spec.Maps {
		if m.Type == ebpf.Hash || m.Type == ebpf.LRUHash || m.Type == ebpf.LPMTrie {
			m.MaxEntries = 4096
		}
	}
	for k, v := range settings {
		if err := spec.Variables[k].Set(v); err != nil {
			t.Fatal(err)
		}
	}
	if err := lifted(func() (err error) { c, err = ebpf.NewCollection(spec); return err }); err != nil {
		t.Fatalf("%+v", err)
	}
	return c
}

// clear makes all maps as they were at first, but for the tables of Maglev.
func (p *path) clear() {
	p.t.Helper()
	for _, m := range p.Maps {
		if m.Type() != ebpf.Hash && m.Type() != ebpf.LRUHash && m.Type() != ebpf.LPMTrie {
			continue
		}
		key := make([]byte, m.KeySize())
		for {
			if err := m.NextKey(nil, &key); errors.Is(err, ebpf.ErrKeyNotExist) {
				break
			} else if err != nil {
				p.t.Fatal(err)
			}
			if err := m.Delete(key); err != nil {
				p.t.Fatal(err)
			}
		}
	}
	p.put("marked", uint32(0), make([]byte, p.Maps["marked"].ValueSize()))
}

func (p *path) put(base string, key, value any) {
	p.t.Helper()
	if err := p.Maps[base].Put(key, value); err != nil {
		p.t.Fatalf("write to %s: %v", base, err)
	}
}

// run gives a frame to a program, and checks what it should do in any case.
func (p *path) run(program string, in []byte, ctx skb) (uint32, []byte) {
	p.t.Helper()
	opts := ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+512)}
	if ctx != (skb{}) {
		opts.Context = ctx
	}
	ret, err := p.Programs[program].Run(&opts)
	if errors.Is(err, unix.EINVAL) && ctx != (skb{}) {
		p.t.Skip("old kernels don't let a test say where a packet came from")
	}
	if errors.Is(err, unix.EINVAL) && len(in) < 14+40 {
		return pass, in // newer kernels don't run programs on less than a header
	}
	if err != nil {
		p.t.Fatalf("%s: %v", program, err)
	}
	if ret != pass && ret != shot && ret != redirect {
		p.t.Fatalf("%s says %d", program, ret)
	}
	return ret, opts.DataOut
}

// see gives a frame to a program and reads what comes out. Every checksum of it is right.
func (p *path) see(program string, in frame, want uint32) frame {
	p.t.Helper()
	ret, out := p.run(program, in.bytes(), skb{})
	if ret != want {
		p.t.Fatalf("%s says %d, not %d, of %v", program, int32(ret), int32(want), in)
	}
	return readFrame(p.t, out)
}

// untouched expects that a program lets a frame pass as it is.
func (p *path) untouched(program string, in frame) {
	p.t.Helper()
	b := in.bytes()
	ret, out := p.run(program, b, skb{})
	if ret != pass || !slices.Equal(b, out) {
		p.t.Fatalf("%s says %d of %v, and it becomes\n%x from\n%x", program, int32(ret), in, out, b)
	}
}

func (p *path) flow(src, dst netip.AddrPort, proto uint8) (f Flow, ok bool) {
	p.t.Helper()
	err := p.Maps["flows"].Lookup(flowKey(src, dst, proto), &f)
	return f, err == nil
}

func flowKey(src, dst netip.AddrPort, proto uint8) FlowKey {
	return FlowKey{Src: AddressOf(src.Addr()), Dst: AddressOf(dst.Addr()), Sport: PortOf(src.Port()), Dport: PortOf(dst.Port()),
		Proto: proto}
}

// age lets seconds go by for a flow.
func (p *path) age(src, dst netip.AddrPort, proto uint8, s uint32) {
	p.t.Helper()
	f, ok := p.flow(src, dst, proto)
	if !ok {
		p.t.Fatalf("no flow %v > %v to age", src, dst)
	}
	f.Seen -= s
	p.put("flows", flowKey(src, dst, proto), f)
}

// entries is how many entries a map has.
func (p *path) entries(base string) (n int) {
	p.t.Helper()
	var key, value []byte
	for it := p.Maps[base].Iterate(); it.Next(&key, &value); {
		n++
	}
	return n
}

// counted is how many packets a counter has.
func (p *path) counted(name string) (n uint64) {
	p.t.Helper()
	var per []Counted
	if err := p.Maps["counters"].Lookup(uint32(slices.Index(Counters[:], name)), &per); err != nil {
		p.t.Fatal(err)
	}
	for _, c := range per {
		n += c.Packets
	}
	return n
}

// pod is an endpoint.
func (p *path) pod(addr netip.Addr, attach uint8, number byte) Endpoint {
	p.t.Helper()
	e := Endpoint{Ifindex: 1, Attach: attach, MAC: [6]byte{2, 0, 0, 0, 1, number}, HostMAC: [6]byte{2, 0, 0, 0, 2, number}}
	p.put("endpoints", AddressOf(addr), e)
	return e
}

// service gives a service its backends. The same address has the same backend id in all of them.
func (p *path) service(addr netip.AddrPort, proto uint8, f Frontend, backends ...netip.AddrPort) {
	p.t.Helper()
	if f.Service == 0 {
		f.Service = uint64(addr.Port())<<8 | uint64(proto)
	}
	if f.Algorithm == 0 {
		f.Algorithm = Random
	}
	f.Slots = uint32(len(backends))
	for i, b := range backends {
		id := backendID(b)
		p.put("slots", SlotKey{Service: f.Service, Slot: uint32(i)},
			Backend{Addr: AddressOf(b.Addr()), ID: id, Port: PortOf(b.Port()), Weight: 1, State: Active})
		if f.Affinity > 0 {
			p.put("members", MemberKey{f.Service, id}, uint32(i))
		}
	}
	p.put("frontends", FrontendKey{Addr: AddressOf(addr.Addr()), Port: PortOf(addr.Port()), Proto: proto}, f)
}

func backendID(b netip.AddrPort) uint64 {
	a := b.Addr().As16()
	return binary.LittleEndian.Uint64(a[8:]) ^ uint64(b.Port())
}

func seconds(t testing.TB) uint32 {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		t.Fatal(err)
	}
	return uint32(ts.Sec)
}
