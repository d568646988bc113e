package nft_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/nft"
)

// frontend is "10.96.0.1:80/TCP" with active backends of weight 1.
func frontend(address, protocol string, backends ...string) resource.Frontend {
	at := netip.MustParseAddrPort(address)
	f := resource.Frontend{Address: at.Addr(), Port: at.Port(), Protocol: protocol, Algorithm: resource.Random}
	for _, b := range backends {
		to := netip.MustParseAddrPort(b)
		f.Backends = append(f.Backends, resource.Backend{Address: to.Addr(), Port: to.Port(), Weight: 1, State: resource.Active})
	}
	return f
}

func with(f resource.Frontend, change func(f *resource.Frontend)) resource.Frontend {
	f.Backends = slices.Clone(f.Backends)
	change(&f)
	return f
}

// bypass is a table that keeps what pods of some ranges send each other, and some nodes, from being tracked.
func bypass(pods []string, nodes ...string) nft.Table {
	var all []netip.Prefix
	for _, p := range pods {
		all = append(all, netip.MustParsePrefix(p))
	}
	t := nft.Table{Pods: nft.Ranges(all)}
	for _, n := range nodes {
		a := netip.MustParseAddr(n)
		all = append(all, netip.PrefixFrom(a, a.BitLen()))
	}
	t.Ends = nft.Ranges(all)
	return t
}

// masquerade is who leaves by eth0, but to some destinations.
func masquerade(pods []string, excluded ...string) nft.Masquerade {
	ranges := func(texts []string) []nft.Range {
		var all []netip.Prefix
		for _, p := range texts {
			all = append(all, netip.MustParsePrefix(p))
		}
		return nft.Ranges(all)
	}
	return nft.Masquerade{Pods: ranges(pods), Excluded: ranges(excluded), Uplinks: []string{"eth0"}}
}

func TestKind(t *testing.T) {
	web := frontend("10.96.0.1:80", "TCP", "10.0.0.10:8080", "10.0.0.11:8080", "10.0.1.9:9090")
	web6 := frontend("[fd00:96::1]:80", "TCP", "[fd00:10::a]:8080", "[fd00:10::b]:8080")
	dns := frontend("10.96.0.2:53", "UDP", "10.0.0.10:53", "10.0.0.11:53")
	dns6 := frontend("[fd00:96::2]:53", "UDP", "[fd00:10::a]:53")
	none := frontend("10.96.0.3:80", "TCP")
	samples := []nft.Table{
		{},
		{Frontends: []resource.Frontend{web, dns, none, web6, dns6}, Segments: []string{"br0", "mv0"}},
		{Frontends: []resource.Frontend{
			with(web, func(f *resource.Frontend) {
				f.Algorithm = resource.RoundRobin
				f.Backends[0].Weight, f.Backends[1].Weight, f.Backends[2].Weight = 2, 0, 6
			}),
			with(dns, func(f *resource.Frontend) { f.Backends = f.Backends[:1]; f.Affinity = 3 * time.Hour }),
			with(web6, func(f *resource.Frontend) {
				f.Affinity = 10 * time.Second
				f.Backends[0].State, f.Backends[0].Weight = resource.Terminating, 3
			}),
		}, Segments: []string{"br0"}},
		{Frontends: []resource.Frontend{
			with(web, func(f *resource.Frontend) { f.Affinity = time.Minute; f.Backends = f.Backends[1:] }),
			with(web6, func(f *resource.Frontend) {
				f.Algorithm = resource.RoundRobin
				f.Affinity = time.Hour
				f.Backends[0].State, f.Backends[1].State = resource.Down, resource.Terminating
			}),
		}},
	}
	samples = append(samples, bypass([]string{"10.0.1.0/24", "255.255.255.0/24", "fd00:10::/64"}, "192.168.31.100", "fd00::1"))
	alone, beside, both := nft.Table{}, samples[1], samples[len(samples)-1]
	alone.Masquerade = masquerade([]string{"10.0.0.0/24", "fd00:10::/64"}, "10.0.0.0/8", "192.0.2.1/32", "fd00::/8")
	beside.Masquerade = masquerade([]string{"10.0.0.0/24"}, "10.0.0.0/9", "192.0.2.0/31")
	both.Masquerade = masquerade([]string{"10.0.1.0/24"}, "0.0.0.0/0")
	both.Masquerade.Uplinks = []string{"eth0", "eth1"}
	samples = append(samples, alone, beside, both)
	kindtest.Run(t, kindtest.Kind[nft.Table]{Ops: nft.Ops{}, Samples: samples, Foreign: plant})
}

// plant makes somebody else's table of our name.
func plant(t *testing.T, h *host.Host, _ nft.Table) func(t *testing.T) {
	theirs := &nftables.Table{Name: resource.NftTable, Family: nftables.TableFamilyINet}
	inRoot(t, h, func(c *nftables.Conn) error {
		c.AddTable(theirs)
		c.AddChain(&nftables.Chain{Name: "prerouting", Table: theirs})
		return c.Flush()
	})
	return func(t *testing.T) {
		inRoot(t, h, func(c *nftables.Conn) error {
			chains, err := c.ListChainsOfTableFamily(theirs.Family)
			if err == nil && (len(chains) != 1 || chains[0].Name != "prerouting" || chains[0].Type != "") {
				t.Errorf("the foreign table has chains %v", chains)
			}
			return err
		})
	}
}

func inRoot(t *testing.T, h *host.Host, fn func(c *nftables.Conn) error) {
	t.Helper()
	ns, err := h.NS("")
	if err != nil {
		t.Fatal(err)
	}
	err = ns.Do(func() error {
		c, err := nftables.New()
		if err != nil {
			return err
		}
		return fn(c)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func observe(t testing.TB, h *host.Host, wanted ...nft.Table) nft.Table {
	t.Helper()
	owned, foreign, err := (nft.Ops{}).Observe(t.Context(), h, wanted)
	if err != nil || len(owned) != 1 || len(foreign) != 0 {
		t.Fatalf("owned %v, foreign %v, %v", owned, foreign, err)
	}
	return owned[0]
}

// A table of another node's is foreign.
func TestOtherNode(t *testing.T) {
	o := kindtest.Options(t)
	h := kindtest.Open(t, o)
	if err := (nft.Ops{}).Create(t.Context(), h, nft.Table{}); err != nil {
		t.Fatal(err)
	}
	o.Node = "other"
	owned, foreign, err := (nft.Ops{}).Observe(t.Context(), kindtest.Open(t, o), []nft.Table{{}})
	if err != nil || len(owned) != 0 || len(foreign) != 1 || foreign[0].Owner != "plumb node "+kindtest.Node {
		t.Errorf("owned %v, foreign %+v, %v", owned, foreign, err)
	}
}

// Whatever somebody does to our table is seen, and mended by one update.
func TestDamage(t *testing.T) {
	h := kindtest.Root(t)
	want := nft.Table{Frontends: []resource.Frontend{frontend("10.96.0.1:80", "TCP", "10.0.0.10:8080", "10.0.0.11:8080")}}
	if err := (nft.Ops{}).Create(t.Context(), h, want); err != nil {
		t.Fatal(err)
	}
	ours := &nftables.Table{Name: resource.NftTable, Family: nftables.TableFamilyINet}
	set := func(name string) *nftables.Set { return &nftables.Set{Table: ours, Name: name, IsMap: true} }
	for name, harm := range map[string]func(c *nftables.Conn){
		"a chain flushed":   func(c *nftables.Conn) { c.FlushChain(&nftables.Chain{Table: ours, Name: "services"}) },
		"the table flushed": func(c *nftables.Conn) { c.FlushTable(ours) },
		"a chain added":     func(c *nftables.Conn) { c.AddChain(&nftables.Chain{Table: ours, Name: "more"}) },
		"all slots gone":    func(c *nftables.Conn) { c.FlushSet(set("slots4")) },
		"a service gone":    func(c *nftables.Conn) { c.FlushSet(set("services4")) },
		"another rule":      func(c *nftables.Conn) { c.AddRule(&nftables.Rule{Table: ours, Chain: &nftables.Chain{Name: "output"}}) },
		"masquerading off":  func(c *nftables.Conn) { c.FlushSet(&nftables.Set{Table: ours, Name: "hairpin4"}) },
	} {
		t.Run(name, func(t *testing.T) {
			inRoot(t, h, func(c *nftables.Conn) error {
				harm(c)
				return c.Flush()
			})
			there := observe(t, h, want)
			fields, inPlace := (nft.Ops{}).Diff(there, want)
			if len(fields) == 0 || fields[0].Name != "ruleset" || !inPlace {
				t.Fatalf("fields %+v", fields)
			}
			if err := (nft.Ops{}).Update(t.Context(), h, there, want); err != nil {
				t.Fatal(err)
			}
			if fields, _ := (nft.Ops{}).Diff(observe(t, h, want), want); len(fields) != 0 {
				t.Errorf("afterwards %+v differs", fields)
			}
		})
	}
}

// many are n services of three backends each.
func many(n int) nft.Table {
	var t nft.Table
	for i := range n {
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)}), 80)
		var backends []string
		for b := range 3 {
			k := (3*i + b) % 300
			backends = append(backends, fmt.Sprintf("10.0.%d.%d:8080", k/200, 10+k%200))
		}
		slices.SortFunc(backends, func(a, b string) int {
			return netip.MustParseAddrPort(a).Compare(netip.MustParseAddrPort(b))
		})
		t.Frontends = append(t.Frontends, frontend(at.String(), "TCP", backends...))
	}
	slices.SortFunc(t.Frontends, func(a, b resource.Frontend) int { return compare(a.Name(), b.Name()) })
	return t
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// Ten thousand services are one transaction, and one changed backend is as many elements as differ.
func TestMany(t *testing.T) {
	h := kindtest.Root(t)
	n := 10_000
	if testing.Short() {
		n = 1_000
	}
	want := many(n)
	var wrote []string
	h.OnWrite = func(_ int, what string) { wrote = append(wrote, what) }
	took := stopwatch(t)
	if err := (nft.Ops{}).Create(t.Context(), h, want); err != nil {
		t.Fatal(err)
	}
	took("create %d services", n)
	there := observe(t, h, want)
	took("observe")
	if fields, _ := (nft.Ops{}).Diff(there, want); len(fields) != 0 {
		t.Fatalf("differs: %+v", fields)
	}
	took("diff")
	next := want
	next.Frontends = slices.Clone(want.Frontends)
	next.Frontends[n/2] = with(next.Frontends[n/2], func(f *resource.Frontend) { f.Backends[2].Port = 8081 })
	if err := (nft.Ops{}).Update(t.Context(), h, there, next); err != nil {
		t.Fatal(err)
	}
	took("change one backend")
	if len(wrote) != 2 || wrote[1] != "update nft inet plumb: 2 elements deleted or added" {
		t.Errorf("wrote %q", wrote)
	}
	if fields, _ := (nft.Ops{}).Diff(observe(t, h, next), next); len(fields) != 0 {
		t.Errorf("afterwards %+v differs", fields)
	}
}

// stopwatch logs what took how long.
func stopwatch(t *testing.T) func(format string, args ...any) {
	last := time.Now()
	return func(format string, args ...any) {
		t.Logf("%s: %s", fmt.Sprintf(format, args...), time.Since(last).Round(time.Millisecond/10))
		last = time.Now()
	}
}
