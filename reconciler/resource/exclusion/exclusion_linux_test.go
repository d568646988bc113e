package exclusion_test

import (
	"net/netip"
	"slices"
	"testing"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/exclusion"
)

const name = "excluded.v1.64"

// setup pins the map.
func setup(t testing.TB, h *host.Host, name string) {
	t.Helper()
	kindtest.BPFFS(t, h)
	base, _, entries, _ := bpf.ParseMapName(name)
	m, err := bpf.NewMap(base, entries)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := h.MakeBPFFolder(host.BPFMapFolder); err != nil {
		t.Fatal(err)
	}
	if err := m.Pin(h.BPFPath(host.BPFMapFolder, name)); err != nil {
		t.Fatal(err)
	}
	h.ForgetMaps()
}

func sample(prefixes ...string) exclusion.Exclusions {
	e := exclusion.Exclusions{Maps: []resource.ID{{Kind: "bpfmap", Name: name}}}
	for _, p := range prefixes {
		e.Prefixes = append(e.Prefixes, netip.MustParsePrefix(p))
	}
	e.Prefixes = exclusion.Sorted(e.Prefixes)
	return e
}

func TestKind(t *testing.T) {
	kindtest.Run(t, kindtest.Kind[exclusion.Exclusions]{
		Ops: exclusion.Ops{},
		Samples: []exclusion.Exclusions{
			sample("10.0.0.0/8", "192.0.2.1/32", "fd00::/8"),
			sample("10.0.0.0/16", "192.0.2.1/32", "2001:db8::1/128"),
			sample("0.0.0.0/0", "::/0"),
		},
		Setup: func(t *testing.T, h *host.Host) { setup(t, h, name) },
	})
}

// Whatever else is in the map shows, and goes.
func TestStrangeEntries(t *testing.T) {
	h := kindtest.Root(t)
	setup(t, h, name)
	all, err := h.BPFMaps("excluded")
	if err != nil || len(all) != 1 {
		t.Fatalf("found %d maps: %v", len(all), err)
	}
	odd := bpf.Prefix{Bits: 40, Addr: bpf.AddressOf(netip.MustParseAddr("10.0.0.0"))}
	if err := all[0].Put(odd, uint32(1)); err != nil {
		t.Fatal(err)
	}
	want := sample("10.0.0.0/8")
	owned, _, err := exclusion.Ops{}.Observe(t.Context(), h, []exclusion.Exclusions{want})
	if err != nil || len(owned) != 1 {
		t.Fatalf("observed %v: %v", owned, err)
	}
	if fields, _ := (exclusion.Ops{}).Diff(owned[0], want); len(fields) != 2 {
		t.Errorf("differences are %v", fields)
	}
	if err := (exclusion.Ops{}).Update(t.Context(), h, owned[0], want); err != nil {
		t.Fatal(err)
	}
	owned, _, err = exclusion.Ops{}.Observe(t.Context(), h, []exclusion.Exclusions{want})
	if err != nil || len(owned) != 1 || !slices.Equal(owned[0].Prefixes, want.Prefixes) {
		t.Errorf("observed %v: %v", owned, err)
	}
}
