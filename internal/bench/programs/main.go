// Command programs measures what one run of each program on a packet costs, in ns by the kernel's run statistics, less
// those of an empty program:
//
//	bench-programs [-runs N] [-rounds N]
//
// A packet goes in once a call, fresh: a program that translates would see on a repeated one that it did so already.
// "warm" is one packet over and over, "cold" another one each time, of 10,000 services or 60,000 flows, so that neither
// the map's entry nor the bucket is in the cache.
package main

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/bpf"
)

func main() {
	runs := flag.Int("runs", 20000, "runs of one measurement")
	rounds := flag.Int("rounds", 7, "measurements, of which the median counts")
	flag.Parse()
	if err := run(*runs, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench-programs:", err)
		os.Exit(1)
	}
}

const (
	flows    = 60_000
	services = 10_000
	syn, ack = 2, 16
)

var (
	pod     = netip.MustParseAddr("10.0.0.2")
	backend = netip.MustParseAddr("10.0.0.3")
)

func service(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}) }

func run(runs, rounds int) error {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		return fmt.Errorf("switch the run statistics on: %w", err)
	}
	defer stats.Close()
	empty, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, -1), asm.Return(),
	}})
	if err != nil {
		return fmt.Errorf("load an empty program: %w", err)
	}
	defer empty.Close()
	base, err := times(empty, runs, rounds, func(int) []byte { return packet(pod, 1000, backend, 8080, ack) })
	if err != nil {
		return err
	}
	fmt.Printf("%-52s %8.0f ns\n", "an empty program", base[len(base)/2])
	fmt.Printf("%-52s %11s   min–max\n", "less that:", "median")
	for _, c := range cases {
		ms, err := newMaps(c.services)
		if err != nil {
			return err
		}
		p, err := bpf.Load(c.object, c.program, map[string]uint32{"redirect": 1, "source_check": 1}, ms)
		if err != nil {
			return err
		}
		if c.begin != nil {
			for i := range c.different {
				if _, err := p.Run(&ebpf.RunOptions{Data: c.begin(i)}); err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
			}
		}
		t, err := times(p, runs, rounds, func(n int) []byte { return c.packet(n % c.different) })
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		for i := range t {
			t[i] -= base[len(base)/2]
		}
		fmt.Printf("%-52s %8.0f ns   %.0f–%.0f\n", c.object+" "+c.program+", "+c.name, t[len(t)/2], t[0], t[len(t)-1])
		p.Close()
		for _, m := range ms {
			m.Close()
		}
	}
	return nil
}

// times runs a program on packets and returns the ns a run of each round, sorted. The first round doesn't count.
func times(p *ebpf.Program, runs, rounds int, packet func(n int) []byte) ([]float64, error) {
	var all []float64
	n := 0
	for round := range rounds + 1 {
		before, err := p.Stats()
		if err != nil {
			return nil, err
		}
		for range runs {
			if _, err := p.Run(&ebpf.RunOptions{Data: packet(n)}); err != nil {
				return nil, err
			}
			n++
		}
		after, err := p.Stats()
		if err != nil {
			return nil, err
		}
		if round > 0 {
			all = append(all, float64(after.Runtime-before.Runtime)/float64(after.RunCount-before.RunCount))
		}
	}
	slices.Sort(all)
	return all, nil
}

// measured is one case: packets, of which `different` many come in turn.
type measured struct {
	object, program, name string
	services, different   int
	begin                 func(i int) []byte // makes what the packets find
	packet                func(i int) []byte
}

// port of a client, and client, of flow i: a pod has not so many ports.
func flow(i int) (netip.Addr, uint16) { return pod, uint16(1024 + i) }

func toService(i, services int, flags byte) []byte {
	c, port := flow(i)
	return packet(c, port, service(i%services), 80, flags)
}

var cases = func() (all []measured) {
	direct := func(int) []byte { return packet(pod, 1000, backend, 8080, ack) }
	for _, object := range []string{"forward", "packet"} {
		all = append(all, measured{object, "from_pod", "to a pod", 1, 1, nil, direct})
	}
	for _, n := range []int{1, services} {
		name := fmt.Sprintf("%d services, ", n)
		open := func(i int) []byte { return toService(i, n, syn) }
		segment := func(i int) []byte { return toService(i, n, ack) }
		answer := func(i int) []byte {
			c, port := flow(i)
			return packet(backend, 8080, c, port, ack)
		}
		all = append(all,
			measured{"packet", "from_pod", name + "a flow, warm", n, 1, open, segment},
			measured{"packet", "from_pod", name + "60,000 flows, cold", n, flows, open, segment},
			measured{"packet", "from_pod", name + "answers, warm", n, 1, open, answer},
			measured{"packet", "from_pod", name + "answers of 60,000 flows, cold", n, flows, open, answer},
			measured{"packet", "from_pod", name + "60,000 new flows", n, flows, nil, open},
			measured{"packet", "pod_egress", name + "60,000 flows, cold", n, flows, open, segment},
		)
	}
	return append(all,
		measured{"packet", "to_pod", "not of a service", 1, 1, nil, direct},
		measured{"packet", "pod_egress", "not of a service", 1, 1, nil, direct},
		measured{"packet", "uplink_ingress", "of a pod of its own", 1, 1, nil, direct})
}()

// newMaps makes the maps with two pods and some services of one backend each.
func newMaps(n int) (map[string]*ebpf.Map, error) {
	ms := map[string]*ebpf.Map{}
	for base := range bpf.Layouts {
		entries := 1024
		switch base {
		case "counters":
			entries = len(bpf.Counters)
		case "swept", "marked", "maglev_2039s", "maglev_4093s", "maglev_16381s", "maglev_65521s", "maglev_131071s":
			entries = 1
		case "flows":
			entries = 4 * flows
		case "frontends", "slots":
			entries = 2 * services
		}
		m, err := bpf.NewMap(base, entries)
		if err != nil {
			return nil, err
		}
		ms[base] = m
	}
	// Programs that run by hand see device 1.
	var err error
	for i, a := range []netip.Addr{pod, backend} {
		err = errors.Join(err, ms["endpoints"].Put(bpf.AddressOf(a), bpf.Endpoint{Ifindex: 1, MAC: bpf.MAC{2, 0, 0, 0, 0, byte(i)}, Attach: bpf.Veth}))
	}
	err = errors.Join(err, ms["macs"].Put(uint64(2), uint32(1)))
	for i := range n {
		id := uint64(i + 1)
		f := bpf.Frontend{Service: id, Slots: 1, Algorithm: bpf.Random}
		b := bpf.Backend{Addr: bpf.AddressOf(backend), ID: 1, Port: bpf.PortOf(8080), Weight: 1, State: bpf.Active}
		err = errors.Join(err, ms["slots"].Put(bpf.SlotKey{Service: id}, b),
			ms["frontends"].Put(bpf.FrontendKey{Addr: bpf.AddressOf(service(i)), Port: bpf.PortOf(80), Proto: bpf.TCP}, f))
	}
	return ms, err
}

// packet is a TCP segment without data, as a pod sends it.
func packet(src netip.Addr, sport uint16, dst netip.Addr, dport uint16, flags byte) []byte {
	b := make([]byte, 14+20+20)
	copy(b[6:], []byte{2, 0, 0, 0, 0, 0, 8, 0})
	ip, tcp := b[14:], b[34:]
	ip[0], ip[8], ip[9] = 0x45, 64, bpf.TCP
	binary.BigEndian.PutUint16(ip[2:], 40)
	copy(ip[12:], src.AsSlice())
	copy(ip[16:], dst.AsSlice())
	binary.BigEndian.PutUint16(tcp, sport)
	binary.BigEndian.PutUint16(tcp[2:], dport)
	tcp[12], tcp[13] = 5<<4, flags
	return b
}
