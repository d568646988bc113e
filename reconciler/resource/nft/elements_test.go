package nft

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"plumb.internal/plumb/reconciler/resource"
)

// anyTable is a table of a few frontends out of a few, so that two of them have much in common.
func anyTable(r *rand.Rand) Table {
	var t Table
	for _, a := range []string{"10.96.0.1", "10.96.0.2", "fd00:96::1"} {
		for _, p := range []string{"TCP", "UDP"} {
			for port := range uint16(2) {
				if r.IntN(3) == 0 {
					continue
				}
				f := resource.Frontend{Address: netip.MustParseAddr(a), Port: 80 + port, Protocol: p,
					Algorithm: []string{resource.Random, resource.RoundRobin}[r.IntN(2)],
					Affinity:  []time.Duration{0, 0, time.Hour}[r.IntN(3)]}
				for i := range byte(3) {
					b := resource.Backend{Address: netip.AddrFrom4([4]byte{10, 0, 0, 10 + i}), Port: 8080, Weight: r.IntN(4),
						State: []string{resource.Active, resource.Active, resource.Terminating, resource.Maintenance, resource.Down}[r.IntN(5)]}
					if f.Address.Is6() {
						b.Address = netip.AddrFrom16([16]byte{0xfd, 15: 10 + i})
					}
					if r.IntN(4) > 0 {
						f.Backends = append(f.Backends, b)
					}
				}
				t.Frontends = append(t.Frontends, f)
			}
		}
	}
	sortFrontends(t.Frontends)
	for _, dev := range []string{"br0", "mv0"} {
		if r.IntN(2) == 0 {
			t.Segments = append(t.Segments, dev)
		}
	}
	return t
}

// What is written is read back as it was, and what differs is all that has to change, and no more.
func TestElements(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		from, to := anyTable(r), anyTable(r)
		if r.IntN(2) == 0 { // most changes are small
			to = from
			to.Frontends = slices.Clone(from.Frontends)
			if n := len(to.Frontends); n > 0 {
				i := r.IntN(n)
				to.Frontends = slices.Delete(to.Frontends, i, i+r.IntN(2))
			}
		}
		elements, chains := encode(from)
		back, err := decode(elements)
		if err != nil {
			t.Fatal(err)
		}
		if fields, _ := (Ops{}).Diff(back, from); len(fields) > 0 || !reflect.DeepEqual(back.Segments, from.Segments) {
			t.Fatalf("read back as %+v, differs in %+v", back, fields)
		}

		d := difference(from, to)
		want, wantChains := encode(to)
		for name := range elements {
			for key := range d.gone[name] {
				if _, ok := elements[name][key]; !ok {
					t.Fatalf("%s: deletes what isn't there", name)
				}
				delete(elements[name], key)
			}
			for key, e := range d.fresh[name] {
				if _, ok := elements[name][key]; ok {
					t.Fatalf("%s: adds what is there", name)
				}
				if _, changed := d.gone[name][key]; changed && d.gone[name][key] == e {
					t.Fatalf("%s: writes what doesn't differ", name)
				}
				elements[name][key] = e
			}
			if !maps.Equal(elements[name], want[name]) {
				t.Fatalf("%s: from %+v to %+v gives other elements", name, from, to)
			}
		}
		for name := range d.drop {
			delete(chains, name)
		}
		maps.Copy(chains, d.add)
		if !maps.Equal(chains, wantChains) {
			t.Fatalf("from %+v to %+v gives chains %v, want %v", from, to, chains, wantChains)
		}
	}
}

func TestDescribe(t *testing.T) {
	f := resource.Frontend{Address: netip.MustParseAddr("10.96.0.1"), Port: 80, Protocol: "TCP", Algorithm: resource.Random,
		Affinity: 3 * time.Hour, Backends: []resource.Backend{
			{Address: netip.MustParseAddr("10.0.0.10"), Port: 8080, Weight: 1, State: resource.Active},
			{Address: netip.MustParseAddr("10.0.1.9"), Port: 9090, Weight: 2, State: resource.Terminating},
		}}
	table := Table{Frontends: []resource.Frontend{f}}
	if got := resource.Describe(table); got != "nft table inet plumb, 1 frontends, 2 backends" {
		t.Error(got)
	}
	fields, inPlace := (Ops{}).Diff(Table{}, table)
	want := []resource.Field{{Name: "10.96.0.1:80/TCP", After: "random, affinity 3h0m0s to 10.0.0.10:8080, 10.0.1.9:9090 terminating weight 2"}}
	if !reflect.DeepEqual(fields, want) || !inPlace {
		t.Errorf("fields %+v, in place %v", fields, inPlace)
	}
	f.Algorithm = resource.Maglev
	if err := (Table{Frontends: []resource.Frontend{f}}).unable(); err == nil {
		t.Error("takes maglev")
	}
}
