package service

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
)

// sizes of the maps that most tests need.
var sizes = map[string]int{"frontends": 64, "slots": 8192, "members": 256, "affinities": 1024, "flows": 1024,
	"sock_forward": 1024, "sock_reverse": 1024, "maglev_2039s": 8, "maglev_4093s": 8}

// mapsOf gives a host a BPF file system with maps of their own.
func mapsOf(t testing.TB, h *host.Host, sizes map[string]int) {
	t.Helper()
	kindtest.BPFFS(t, h)
	if err := h.MakeBPFFolder(host.BPFMapFolder); err != nil {
		t.Fatal(err)
	}
	for base, n := range sizes {
		pin(t, h, base, n)
	}
}

func pin(t testing.TB, h *host.Host, base string, entries int) {
	t.Helper()
	k, err := bpf.NewMap(base, entries)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if err := k.Pin(h.BPFPath(host.BPFMapFolder, bpf.MapName(base, bpf.Layouts[base].Version, entries))); err != nil {
		t.Fatal(err)
	}
	h.ForgetMaps()
}

// backend makes a backend from "10.0.0.1:80", a weight and a state.
func backend(at string, weight int, state string) resource.Backend {
	a := netip.MustParseAddrPort(at)
	return resource.Backend{Address: a.Addr(), Port: a.Port(), Weight: weight, State: state}
}

func frontend(at, protocol, algorithm string, backends ...resource.Backend) Service {
	a := netip.MustParseAddrPort(at)
	f := resource.Frontend{Address: a.Addr(), Port: a.Port(), Protocol: protocol, Algorithm: algorithm, Backends: backends}
	if algorithm == resource.Maglev {
		f.TableSize = 2039
	}
	return Service{Frontend: f, From: "services.web"}
}

func (s Service) sticky(d time.Duration) Service {
	s.Affinity = d
	return s
}

func (s Service) table(size int) Service {
	s.TableSize = size
	return s
}

func TestKind(t *testing.T) {
	a, b, c := backend("10.0.0.1:80", 1, resource.Active), backend("10.0.0.2:80", 1, resource.Active), backend("10.0.0.2:81", 1, resource.Active)
	leaving := backend("10.0.0.2:80", 1, resource.Terminating)
	for name, samples := range map[string][]Service{
		"TCP": {
			frontend("10.96.0.1:80", "TCP", resource.Random, a, b, c),
			frontend("10.96.0.1:80", "TCP", resource.Random, a, leaving, c).sticky(time.Hour),
			frontend("10.96.0.1:80", "TCP", resource.RoundRobin, backend("10.0.0.1:80", 2, resource.Active), backend("10.0.0.2:80", 6, resource.Active)),
			frontend("10.96.0.1:80", "TCP", resource.Maglev, a, backend("10.0.0.2:80", 3, resource.Active)),
			frontend("10.96.0.1:80", "TCP", resource.Maglev, leaving, c).table(251).sticky(time.Minute),
			frontend("10.96.0.1:80", "TCP", resource.Maglev, b, c).table(4093),
			frontend("10.96.0.1:80", "TCP", resource.Random),
		},
		"UDP": {
			frontend("[fd00:96::1]:53", "UDP", resource.Random, backend("[fd00::1]:53", 1, resource.Active), backend("[fd00::2]:53", 1, resource.Maintenance)),
			frontend("[fd00:96::1]:53", "UDP", resource.Random, backend("[fd00::2]:53", 0, resource.Active)).sticky(time.Minute),
			frontend("[fd00:96::1]:53", "UDP", resource.Maglev, backend("[fd00::2]:53", 5, resource.Down)),
			frontend("[fd00:96::2]:53", "UDP", resource.RoundRobin, backend("[fd00::1]:53", 7, resource.Active)),
		},
	} {
		t.Run(name, func(t *testing.T) {
			kindtest.Run(t, kindtest.Kind[Service]{Ops: Ops{}, Samples: samples,
				Setup: func(t *testing.T, h *host.Host) { mapsOf(t, h, sizes) }})
		})
	}
}

// fill makes n services of three backends each.
func fill(n int, algorithm string) []Service {
	all := make([]Service, n)
	for i := range all {
		var bs []resource.Backend
		for j := range 3 {
			bs = append(bs, backend(fmt.Sprintf("10.%d.%d.%d:8080", i>>14, i>>6&0xff, i&63*4+j), 1, resource.Active))
		}
		all[i] = frontend(fmt.Sprintf("10.%d.%d.%d:80", 100+i>>16, i>>8&0xff, i&0xff), "TCP", algorithm, bs...)
		if algorithm == resource.Maglev {
			all[i].TableSize = 4093
		}
	}
	return all
}
