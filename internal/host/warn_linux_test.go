package host

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"

	"plumb.internal/plumb/internal/netns"
	"plumb.internal/plumb/reconciler/resource"
)

var testPods = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("fd00:10::/64")}

// private opens a host whose root is a namespace of its own.
func private(t *testing.T) *Host {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this test needs root")
		}
		t.Skip("this test needs root")
	}
	f, err := netns.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	dir := t.TempDir()
	h, err := Open(Options{Node: "n1", RunDir: filepath.Join(dir, "run"), NetNSDir: filepath.Join(dir, "netns"),
		RootNS: fmt.Sprintf("/proc/self/fd/%d", f.Fd())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// expect checks that there is one warning for each list of words, which holds all of them.
func expect(t *testing.T, got []string, want ...[]string) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d warnings, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i, words := range want {
		for _, w := range words {
			if !strings.Contains(got[i], w) {
				t.Errorf("warning %d lacks %q: %s", i, w, got[i])
			}
		}
	}
}

// files makes a folder with the given files and symbolic links ("-> target").
func files(t *testing.T, content map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range content {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(target, p)
		} else {
			err = os.WriteFile(p, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestSurroundingsOfNothing(t *testing.T) {
	h := private(t)
	expect(t, h.Surroundings(context.Background(), testPods, []string{"eth0"}, "plbr"))
	if h.Writes() != 0 {
		t.Error("looking around writes")
	}
}

func TestForwardPolicyDrop(t *testing.T) {
	h := private(t)
	var conn *nftables.Conn
	drop := nftables.ChainPolicyDrop
	chain := func(family nftables.TableFamily, table, name string, hook *nftables.ChainHook) *nftables.Chain {
		tab := conn.AddTable(&nftables.Table{Family: family, Name: table})
		return conn.AddChain(&nftables.Chain{Table: tab, Name: name, Type: nftables.ChainTypeFilter, Hooknum: hook,
			Priority: nftables.ChainPriorityFilter, Policy: &drop})
	}
	fwd, in := nftables.ChainHookForward, nftables.ChainHookInput
	var guarded *nftables.Chain
	err := h.root.Do(func() (err error) {
		if conn, err = nftables.New(nftables.AsLasting()); err != nil {
			return err
		}
		guarded = chain(nftables.TableFamilyINet, "filter", "forward", fwd)
		chain(nftables.TableFamilyINet, "filter", "input", in)
		chain(nftables.TableFamilyINet, resource.NftTable, "forward", fwd)
		return conn.Flush()
	})
	if err != nil {
		t.Skipf("this kernel has no nftables: %v", err)
	}
	defer conn.CloseLasting()
	look := func() []string { return h.Surroundings(context.Background(), testPods, nil) }
	expect(t, look(), []string{"chain forward of table inet filter",
		"nft add rule inet filter forward ip saddr 10.0.0.0/24 accept", "nft add rule inet filter forward ip6 daddr fd00:10::/64 accept"})

	// Once the rules are there, nothing more is said.
	for _, r := range []struct {
		version byte
		offset  uint32
		data    []byte
	}{
		{4, 12, []byte{10, 0, 0}}, {4, 16, []byte{10, 0, 0}},
		{6, 8, []byte{0xfd, 0, 0, 0x10, 0, 0, 0, 0}}, {6, 24, []byte{0xfd, 0, 0, 0x10, 0, 0, 0, 0}},
	} {
		conn.AddRule(&nftables.Rule{Table: guarded.Table, Chain: guarded, Exprs: []expr.Any{
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: r.offset, Len: uint32(len(r.data))},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: r.data},
			&expr.Verdict{Kind: expr.VerdictAccept},
		}})
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	expect(t, look())

	chain(nftables.TableFamilyIPv4, "fw", "fwd", fwd)
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	got := look()
	expect(t, got, []string{"chain fwd of table ip fw", "nft add rule ip fw fwd ip daddr 10.0.0.0/24 accept"})
	if strings.Contains(got[0], "fd00") {
		t.Errorf("an IPv4 chain is told about IPv6: %s", got[0])
	}
}

func TestReversePath(t *testing.T) {
	h := private(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "up0"
	if err := h.root.Handle().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		t.Fatal(err)
	}
	set := func(dev, value string) {
		t.Helper()
		err := h.root.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/"+dev+"/rp_filter", []byte(value), 0) })
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		all, dev string
		want     [][]string
	}{
		{"0", "0", nil}, {"1", "2", nil}, {"2", "1", nil},
		{"0", "1", [][]string{{"net.ipv4.conf.up0.rp_filter = 1 makes", "set net.ipv4.conf.up0.rp_filter = 2"}}},
		{"1", "0", [][]string{{"net.ipv4.conf.all.rp_filter = 1 makes", "uplink up0", "set net.ipv4.conf.up0.rp_filter = 2"}}},
	} {
		set("all", c.all)
		set("up0", c.dev)
		expect(t, h.Surroundings(context.Background(), testPods, []string{"up0"}), c.want...)
	}
}

func TestPolicyRules(t *testing.T) {
	h := private(t)
	r := netlink.NewRule()
	r.Priority, r.Table, r.Protocol = 500, 51820, 3
	if err := h.root.Handle().RuleAdd(r); err != nil {
		t.Fatal(err)
	}
	h.Forget()
	expect(t, h.Surroundings(context.Background(), testPods, nil), []string{"routing rule 500", "table 51820"})
}

func TestNetworkd(t *testing.T) {
	proc := map[string]string{"proc/7/comm": "systemd-network\n", "proc/7/ns/net": "-> net:[42]", "proc/8/comm": "bash\n"}
	const both = "ManageForeignRoutes=no\nManageForeignRoutingPolicyRules=no\n"
	for _, c := range []struct {
		name string
		add  map[string]string
		want [][]string
	}{
		{"defaults", nil, [][]string{{`"[Network]", "ManageForeignRoutes=no", "ManageForeignRoutingPolicyRules=no"`, "/etc/systemd/networkd.conf.d/50-plumb.conf"}}},
		{"both set", map[string]string{"etc/systemd/networkd.conf": "[Network]\n" + both}, nil},
		{"in another section", map[string]string{"etc/systemd/networkd.conf": "[DHCP]\n" + both}, [][]string{{"ManageForeignRoutes=no"}}},
		{"commented out", map[string]string{"etc/systemd/networkd.conf": "[Network]\n#ManageForeignRoutes=no\n"}, [][]string{{"ManageForeignRoutes=no"}}},
		{"one in a drop-in", map[string]string{"usr/lib/systemd/networkd.conf.d/10-a.conf": "[Network]\nManageForeignRoutes=no\n"},
			[][]string{{`"[Network]", "ManageForeignRoutingPolicyRules=no"`}}},
		{"a later drop-in wins", map[string]string{"etc/systemd/networkd.conf.d/10-a.conf": "[Network]\n" + both,
			"usr/lib/systemd/networkd.conf.d/20-b.conf": "[Network]\nManageForeignRoutes=yes\n"}, [][]string{{`"ManageForeignRoutes=no"`}}},
		{"the one below /etc hides its namesake", map[string]string{"etc/systemd/networkd.conf.d/10-a.conf": "[Network]\n" + both,
			"usr/lib/systemd/networkd.conf.d/10-a.conf": "[Network]\nManageForeignRoutes=yes\n"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := map[string]string{}
			for _, m := range []map[string]string{proc, c.add} {
				for k, v := range m {
					all[k] = v
				}
			}
			s := surroundings{root: files(t, all), netns: 42}
			s.networkd()
			expect(t, s.warnings, c.want...)
			elsewhere := surroundings{root: s.root, netns: 43}
			elsewhere.networkd()
			expect(t, elsewhere.warnings)
		})
	}
}

func TestNetworkManager(t *testing.T) {
	s := surroundings{root: files(t, map[string]string{
		"proc/7/comm": "NetworkManager\n", "proc/7/ns/net": "-> net:[42]",
		"run/NetworkManager/devices/3": "[device]\nmanaged=true\n", "run/NetworkManager/devices/4": "[device]\nmanaged=false\n",
	}), netns: 42}
	for i, name := range []string{"pla", "plb", "plc"} {
		s.ours = append(s.ours, &Link{LinkAttrs: netlink.LinkAttrs{Index: 3 + i, Name: name}})
	}
	s.networkManager()
	expect(t, s.warnings, []string{"(pla)", `"unmanaged-devices+=interface-name:pla"`})
}

func TestBridgeFilter(t *testing.T) {
	root := files(t, map[string]string{"proc/sys/net/bridge/bridge-nf-call-iptables": "1\n", "proc/sys/net/bridge/bridge-nf-call-ip6tables": "0\n"})
	s := surroundings{root: root, pods: testPods, bridges: []string{"plbr"}, drops: true}
	s.bridgeFilter()
	expect(t, s.warnings, []string{"net.bridge.bridge-nf-call-iptables = 1", "bridge plbr"})
	for _, s := range []surroundings{{root: root, pods: testPods, drops: true}, {root: root, pods: testPods, bridges: []string{"plbr"}}} {
		s.bridgeFilter()
		expect(t, s.warnings)
	}
}

func TestLegacyTableThatCannotBeRead(t *testing.T) {
	h := private(t)
	s := surroundings{root: files(t, map[string]string{"proc/thread-self/net/ip_tables_names": "nat\nfilter\n"}), pods: testPods}
	if err := h.root.Do(func() error { s.iptables(); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(s.warnings) > 1 {
		t.Errorf("warnings: %q", s.warnings)
	}
	s = surroundings{root: files(t, map[string]string{"proc/thread-self/net/ip_tables_names": "nat\n"}), pods: testPods}
	s.iptables()
	expect(t, s.warnings)
}
