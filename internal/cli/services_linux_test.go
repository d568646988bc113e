package cli

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/nft"
	"plumb.internal/plumb/reconciler/resource/service"
)

func frontend(addr string, port uint16, backends ...resource.Backend) resource.Frontend {
	return resource.Frontend{Address: netip.MustParseAddr(addr), Port: port, Protocol: "TCP", Algorithm: resource.Random, Backends: backends}
}

func backend(addr string, weight int, state string) resource.Backend {
	return resource.Backend{Address: netip.MustParseAddr(addr), Port: 8080, Weight: weight, State: state}
}

// Services are listed by address, each with its backends and what is under way to them.
func TestServices(t *testing.T) {
	h := kindtest.Root(t)
	maps := pinAll(t, h, 16)
	web := frontend("10.96.0.100", 80, backend("10.0.0.10", 1, resource.Active), backend("10.0.0.11", 2, resource.Terminating))
	web.Algorithm, web.TableSize, web.Affinity = resource.Maglev, 4093, 3*time.Hour
	none := frontend("10.96.0.9", 53)
	table := frontend("fd00:96::1", 80, backend("fd00:10::a", 1, resource.Active))
	put(t, maps["sock_reverse"], bpf.PeerKey{Cookie: 1, Proto: bpf.TCP},
		bpf.Peer{Service: service.ID(web), Backend: service.HashID(web.Backends[1].Address, 8080, "TCP")})
	owned, desired := resource.State{}, resource.State{}
	if err := owned.Add(service.Service{Frontend: web}, service.Service{Frontend: none, Broken: "slots are wrong"},
		service.Service{Leftover: "left over"}, nft.Table{Frontends: []resource.Frontend{table}}); err != nil {
		t.Fatal(err)
	}
	if err := desired.Add(service.Service{Frontend: web, From: "services.web.ports.http"}); err != nil {
		t.Fatal(err)
	}
	rows, err := serviceRows(t.Context(), h, owned, desired)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := (&Options{Out: &out}).writeServices(rows); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"SERVICE ID PROTOCOL ADDRESS PORT WAY ALGORITHM BACKEND WEIGHT STATE CONNECTIONS",
		"- ID TCP 10.96.0.9 53 none random (slots are wrong) none - refused -",
		"web http ID TCP 10.96.0.100 80 none maglev 4093, affinity 3h0m0s 10.0.0.10:8080 1 active 0",
		"10.0.0.11:8080 2 terminating 1",
		"- ID TCP fd00:96::1 80 nftables random [fd00:10::a]:8080 1 active N",
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		line = strings.Join(strings.Fields(line), " ")
		for _, r := range rows {
			line = strings.Replace(line, r.ID, "ID", 1)
		}
		got = append(got, line)
	}
	// Whether the kernel tells of connections that nftables leads is its own affair.
	last := len(got) - 1
	got[last] = strings.TrimSuffix(strings.TrimSuffix(got[last], "0"), "-") + "N"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
