package cli

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
)

// pinAll makes a map of every kind, with room for entries.
func pinAll(t *testing.T, h *host.Host, entries int) map[string]*ebpf.Map {
	t.Helper()
	kindtest.BPFFS(t, h)
	if err := h.MakeBPFFolder(host.BPFMapFolder); err != nil {
		t.Fatal(err)
	}
	maps := map[string]*ebpf.Map{}
	for base, l := range bpf.Layouts {
		n := entries
		if base == "counters" {
			n = len(bpf.Counters)
		}
		m, err := bpf.NewMap(base, n)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		if err := m.Pin(h.BPFPath(host.BPFMapFolder, bpf.MapName(base, l.Version, n))); err != nil {
			t.Fatal(err)
		}
		maps[base] = m
	}
	h.ForgetMaps()
	return maps
}

func put(t *testing.T, m *ebpf.Map, key, value any) {
	t.Helper()
	if err := m.Put(key, value); err != nil {
		t.Fatal(err)
	}
}

// Every map that there can be is read: its size, what is in it, and what it takes.
func TestReadMaps(t *testing.T) {
	h := kindtest.Root(t)
	if uses, err := readMaps(h); err != nil || len(uses) != 0 {
		t.Errorf("without maps: %v, %v", uses, err)
	}
	if counters, err := readCounters(h); err != nil || len(counters) != 0 {
		t.Errorf("without maps: counters %v, %v", counters, err)
	}
	maps := pinAll(t, h, 16)
	want := map[string]int{}
	for base, m := range maps {
		switch {
		case strings.HasPrefix(base, "maglev_"):
		case m.Type() == ebpf.LPMTrie: // all of a key counts where its range is one address
			for i := range byte(3) {
				put(t, m, bpf.Prefix{Bits: 128, Addr: bpf.Address{15: i}}, uint32(1))
			}
			want[base] = 3
		case m.Type() != ebpf.Hash && m.Type() != ebpf.LRUHash:
			want[base] = int(m.MaxEntries()) // an array has all of its entries
		default:
			for i := range byte(3) {
				put(t, m, append(make([]byte, m.KeySize()-1), i+1), make([]byte, m.ValueSize()))
			}
			want[base] = 3
		}
	}
	put(t, maps["frontends"], bpf.FrontendKey{Port: bpf.PortOf(81)}, bpf.Frontend{Algorithm: bpf.Maglev, Class: 1, Slots: 1, Table: 7})
	put(t, maps["frontends"], bpf.FrontendKey{Port: bpf.PortOf(82)}, bpf.Frontend{Algorithm: bpf.Maglev, Class: 1, Table: 8})
	want["frontends"], want["maglev_4093s"] = 5, 1
	uses, err := readMaps(h)
	if err != nil {
		t.Fatal(err)
	}
	if len(uses) != len(bpf.Layouts) {
		t.Errorf("%d maps, want %d", len(uses), len(bpf.Layouts))
	}
	for _, u := range uses {
		base, _, entries, _ := bpf.ParseMapName(u.Name)
		if u.Used != want[base] || u.Entries != entries || u.Bytes == 0 {
			t.Errorf("%+v, want %d in use", u, want[base])
		}
	}
}

// Counters are the sums over all processors.
func TestReadCounters(t *testing.T) {
	h := kindtest.Root(t)
	maps := pinAll(t, h, 1)
	cpus := make([]bpf.Counted, ebpf.MustPossibleCPU())
	for i := range cpus {
		cpus[i] = bpf.Counted{Packets: 2, Bytes: 100}
	}
	spoofed := slices.Index(bpf.Counters[:], "spoofed")
	put(t, maps["counters"], uint32(spoofed), cpus)
	counters, err := readCounters(h)
	if err != nil || len(counters) != len(bpf.Counters) {
		t.Fatal(counters, err)
	}
	n := uint64(len(cpus))
	if got := counters[spoofed]; got != (counted{"spoofed", 2 * n, 100 * n}) {
		t.Errorf("%+v with %d processors", got, n)
	}
	if got := counters[0]; got != (counted{Reason: "forwarded"}) {
		t.Errorf("%+v", got)
	}
}

// What status says of services comes from what was observed.
func TestDataStatus(t *testing.T) {
	s := &dataStatus{Services: "socket", SocketLB: socketStatus{On: true, Protocols: []string{"TCP", "UDP"}, Families: []string{"IPv4"}}}
	backends := []resource.Backend{{State: resource.Active}, {State: resource.Terminating}}
	for _, f := range []resource.Frontend{
		{Algorithm: "maglev", TableSize: 4093, Backends: backends},
		{Algorithm: "maglev", TableSize: 4093, Affinity: 3e9},
		{Algorithm: "random", Affinity: 2e9},
	} {
		s.add(f)
	}
	s.Graceful.Supported = true
	s.Maps = []mapUse{{"flows.v1.16", 16, 3, 4096, "ratio"}}
	s.Counters = []counted{{"spoofed", 1, 60}}
	var out bytes.Buffer
	o := &Options{Out: &out, Verbose: true}
	if err := o.writeData(s); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"services              socket\n",
		"socket LB             TCP, UDP over IPv4; getpeername tells the backend\n",
		"algorithm             maglev 4093 (2 services), random (1 service)\n",
		"session affinity      2 services, at most 3s\n",
		"graceful termination  on, 1 backend terminating\n",
		"flows.v1.16  16       3     4096   ratio\n",
		"spoofed  1        60\n",
	} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("%q is missing in\n%s", line, out.String())
		}
	}
}
