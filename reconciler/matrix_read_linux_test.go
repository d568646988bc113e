package reconciler_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/internal/netns"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/schema"
)

// matrix is a node with an uplink to a namespace outside, where a server tells from which address it is asked.
type matrix struct {
	t       *testing.T
	o       host.Options
	h       *host.Host
	set     *features.Set
	far     *os.File
	outside net.Listener
	inForce *schema.Config // in force
	chosen  string
}

func newMatrix(t *testing.T) *matrix {
	kindtest.NeedRoot(t)
	m := &matrix{t: t, far: kindtest.Namespace(t)}
	m.o = m.options()
	m.h = kindtest.Open(t, m.o)
	ns := m.root()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = matrixUplink
	m.must(ns.Handle().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: matrixUplink, PeerTxQLen: -1,
		PeerHardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0xff, 4}, PeerNamespace: netlink.NsFd(int(m.far.Fd()))}))
	m.must(wire(ns.Handle(), "192.0.2.1/24", "2001:db8::1/64"))
	m.must(netns.Do(int(m.far.Fd()), func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		if err := wire(h, "192.0.2.2/24", "2001:db8::2/64"); err != nil {
			return err
		}
		for dst, via := range map[string]string{"10.0.0.0/24": "192.0.2.1", "fd00:10::/64": "2001:db8::1"} {
			_, network, err := net.ParseCIDR(dst)
			if err != nil {
				return err
			}
			if err := h.RouteAdd(&netlink.Route{Dst: network, Gw: net.ParseIP(via)}); err != nil {
				return err
			}
		}
		m.outside, err = net.Listen("tcp", "192.0.2.2:8080")
		return err
	}))
	t.Cleanup(func() { m.outside.Close() })
	m.machine()
	m.watch()
	return m
}

// wire sets up lo and the uplink of a namespace.
func wire(h *netlink.Handle, addrs ...string) error {
	for _, name := range []string{"lo", matrixUplink} {
		l, err := h.LinkByName(name)
		if err != nil {
			return err
		}
		if err := h.LinkSetUp(l); err != nil {
			return err
		}
		for _, text := range addrs {
			a, err := netlink.ParseAddr(text)
			if err != nil || name == "lo" {
				continue
			}
			a.Flags = unix.IFA_F_NODAD
			if err := h.AddrAdd(l, a); err != nil {
				return err
			}
		}
	}
	return nil
}

// The firewall of somebody else's that counts what the node forwards, and has the kernel track connections.
const watching = "watching"

func (m *matrix) watch() {
	m.must(m.root().Do(func() error {
		conn := &nftables.Conn{}
		table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: watching})
		chain := conn.AddChain(&nftables.Chain{Table: table, Name: "forward", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookForward,
			Priority: nftables.ChainPriorityFilter})
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}, &expr.Counter{}}})
		return conn.Flush()
	}))
}

// forwarded counts the packets that the node's stack forwards while fn runs.
func (m *matrix) forwarded(fn func()) (n int) {
	count := func() (packets int) {
		m.must(m.root().Do(func() error {
			conn := &nftables.Conn{}
			table := &nftables.Table{Family: nftables.TableFamilyINet, Name: watching}
			rules, err := conn.GetRules(table, &nftables.Chain{Table: table, Name: "forward"})
			for _, r := range rules {
				for _, e := range r.Exprs {
					if c, ok := e.(*expr.Counter); ok {
						packets += int(c.Packets)
					}
				}
			}
			return err
		}))
		return packets
	}
	before := count()
	fn()
	return count() - before
}

func (m *matrix) must(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *matrix) ns(name string) *host.NS {
	m.t.Helper()
	ns, err := m.h.NS(name)
	m.must(err)
	return ns
}

func (m *matrix) root() *host.NS { return m.ns("") }

// link is a device, read anew.
func (m *matrix) link(pod, name string) netlink.Link {
	m.t.Helper()
	l, err := m.ns(pod).Handle().LinkByName(name)
	m.must(err)
	return l
}

// dial connects from a pod to a listener, and returns from which address that is seen to come; "" where it isn't reached.
func (m *matrix) dial(pod, to string, l net.Listener) string {
	m.t.Helper()
	from := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			from <- ""
			return
		}
		defer c.Close()
		from <- netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().String()
	}()
	err := m.ns(pod).Do(func() error {
		c, err := net.DialTimeout("tcp4", to, 10*time.Second)
		if err == nil {
			c.Close()
		}
		return err
	})
	if err != nil {
		l.(*net.TCPListener).SetDeadline(time.Now())
		<-from
		l.(*net.TCPListener).SetDeadline(time.Time{})
		return ""
	}
	return <-from
}

// out connects to the outside.
func (m *matrix) out() string { return m.dial("web", "192.0.2.2:8080", m.outside) }

// beside connects from pod to pod.
func (m *matrix) beside() string {
	m.t.Helper()
	var l net.Listener
	m.must(m.ns("client").Do(func() (err error) {
		l, err = net.Listen("tcp4", "10.0.0.20:8080")
		return err
	}))
	defer l.Close()
	return m.dial("web", "10.0.0.20:8080", l)
}

// answers says who doesn't answer.
func (m *matrix) answers() string {
	if m.out() == "" {
		return "the outside doesn't answer a pod"
	}
	if m.beside() != "10.0.0.10" {
		return "pods don't answer each other, or not as themselves"
	}
	return ""
}

func (m *matrix) attachment() string {
	l := m.link("web", "eth0")
	switch l := l.(type) {
	case *netlink.IPVlan:
		return "ipvlan-" + map[netlink.IPVlanMode]string{netlink.IPVLAN_MODE_L2: "l2", netlink.IPVLAN_MODE_L3: "l3"}[l.Mode]
	case *netlink.Veth:
		links, err := m.root().Handle().LinkList()
		m.must(err)
		i := slices.IndexFunc(links, func(o netlink.Link) bool { return o.Attrs().Index == l.ParentIndex && o.Type() == "veth" })
		if i >= 0 && links[i].Attrs().MasterIndex != 0 {
			return "bridge"
		}
	}
	return l.Type()
}

// services looks for programs on the cgroup, and at what becomes of a connection.
func (m *matrix) services() string {
	var ways []string
	dir, err := os.Open(m.o.Cgroup)
	m.must(err)
	defer dir.Close()
	found, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: ebpf.AttachCGroupInet4Connect})
	m.must(err)
	if len(found.Programs) > 0 {
		ways = append(ways, "socket")
	}
	// This process isn't in the cgroup, so no socket program acts for it: who gets an answer is led there on its way.
	if m.served() {
		if m.chains(nftables.ChainTypeNAT, nftables.ChainHookPrerouting) > 0 {
			ways = append(ways, "nftables")
		} else {
			ways = append(ways, "packet")
		}
	}
	return strings.Join(ways, "+")
}

// served connects to the service.
func (m *matrix) served() bool {
	m.t.Helper()
	var l net.Listener
	m.must(m.ns("web").Do(func() (err error) {
		l, err = net.Listen("tcp4", "10.0.0.10:8080")
		return err
	}))
	defer l.Close()
	return m.dial("client", "10.96.0.1:80", l) == "10.0.0.20"
}

// chains counts plumb's chains of a type at a hook.
func (m *matrix) chains(kind nftables.ChainType, hook *nftables.ChainHook) (n int) {
	m.must(m.root().Do(func() error {
		chains, err := (&nftables.Conn{}).ListChains()
		for _, c := range chains {
			if c.Table.Name == "plumb" && c.Type == kind && c.Hooknum != nil && *c.Hooknum == *hook {
				n++
			}
		}
		return err
	}))
	return n
}

// hostRouting is told by who sees packets.
func (m *matrix) hostRouting() string {
	beside, out := m.forwarded(func() { m.beside() }), m.forwarded(func() { m.out() })
	switch {
	case beside > 0 && out > 0:
		return "legacy"
	case beside == 0 && out == 0:
		return "bpf"
	}
	return fmt.Sprintf("%d packets forwarded beside, %d outward", beside, out)
}

func (m *matrix) masquerade() string {
	switch from := m.out(); {
	case from == "10.0.0.10":
		return "off"
	case from != "192.0.2.1":
		return "address " + from
	case m.chains(nftables.ChainTypeNAT, nftables.ChainHookPostrouting) > 0:
		return "nftables"
	}
	return "bpf"
}

// bypass looks for connections from pod to pod in the connection table, after there were some.
func (m *matrix) bypass() string {
	if m.beside() == "" {
		return "nothing, as pods don't answer each other"
	}
	var flows []*netlink.ConntrackFlow
	m.must(m.root().Do(func() (err error) {
		h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer h.Close()
		flows, err = h.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
		return err
	}))
	for _, f := range flows {
		if f.Forward.SrcIP.String() == "10.0.0.10" && f.Forward.DstIP.String() == "10.0.0.20" {
			return "off"
		}
	}
	return "on"
}

func (m *matrix) bandwidth() string {
	root := func(pod, dev string) string {
		qdiscs, err := m.ns(pod).Handle().QdiscList(m.link(pod, dev))
		m.must(err)
		for _, q := range qdiscs {
			if q.Attrs().Parent == netlink.HANDLE_ROOT {
				return q.Type()
			}
		}
		return "none"
	}
	up, pod, end := root("", matrixUplink), root("web", "eth0"), root("", "pl-web")
	switch {
	case end == "tbf" && (up == "fq" || up == "mq") && pod != "tbf":
		return "on"
	case end == "tbf" && pod == "tbf":
		return "off"
	}
	return fmt.Sprintf("qdiscs %s, %s and %s", up, pod, end)
}

// congestion is that of a new socket.
func (m *matrix) congestion() string {
	var of []string
	for _, pod := range []string{"", "web"} {
		m.must(m.ns(pod).Do(func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			name, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
			of = append(of, strings.TrimRight(name, "\x00"))
			return err
		}))
	}
	return strings.Join(slices.Compact(of), " and ")
}

func (m *matrix) mtu() string {
	up, pod := m.link("", matrixUplink).Attrs().MTU, m.link("web", "eth0").Attrs().MTU
	if up != pod {
		return fmt.Sprintf("%d and %d", up, pod)
	}
	return fmt.Sprint(up)
}

// bigTCP is on where any family's packets may be larger than 64 KiB on every device of the path.
func (m *matrix) bigTCP() string {
	words := map[bool]string{false: "off", true: "on"}
	var of []string
	for _, l := range []netlink.Link{m.link("", matrixUplink), m.link("", "pl-web"), m.link("web", "eth0")} {
		a := l.Attrs()
		of = append(of, words[max(a.GSOMaxSize, a.GSOIPv4MaxSize) > 64<<10 && max(a.GROMaxSize, a.GROIPv4MaxSize) > 64<<10])
	}
	return strings.Join(slices.Compact(of), " and ")
}

func (m *matrix) xdp() string {
	x := m.link("", matrixUplink).Attrs().Xdp
	if x == nil || !x.Attached {
		return "off"
	}
	return [...]string{"off", "native", "generic"}[x.AttachMode%3]
}

// profile finds the values that a profile is about.
func (m *matrix) profile() string {
	sysctl := func(key string) (last int) {
		m.must(m.root().Do(func() error {
			data, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(key, ".", "/"))
			for _, word := range strings.Fields(string(data)) {
				fmt.Sscan(word, &last)
			}
			return err
		}))
		return last
	}
	switch {
	case sysctl("net.ipv4.tcp_fastopen") == 3:
		return "network-latency"
	case sysctl("net.ipv4.tcp_rmem") >= 16777216 && sysctl("net.ipv4.tcp_wmem") >= 16777216 && sysctl("net.core.somaxconn") >= 2048:
		return "network-throughput"
	}
	return "none"
}

// algorithm is what the map of services says, or the one that nftables has.
func (m *matrix) algorithm() string {
	maps, err := m.h.BPFMaps("frontends")
	m.must(err)
	names := map[uint8]string{bpf.Random: "random", bpf.RoundRobin: "round-robin", bpf.Maglev: "maglev"}
	found := ""
	for _, frontends := range maps {
		m.must(bpf.Each(frontends.Map, func(_ bpf.FrontendKey, f bpf.Frontend) { found += names[f.Algorithm] }))
	}
	return found
}

// maps compares the sizes of two maps with what is asked for: flows with the ratio, of which half is theirs at 136 bytes an
// entry, rounded down by at most an eighth; frontends with the number of services.
func (m *matrix) maps() string {
	entries := func(base string) int {
		maps, err := m.h.BPFMaps(base)
		m.must(err)
		if len(maps) != 1 {
			m.t.Fatalf("%d maps %s", len(maps), base)
		}
		return int(maps[0].MaxEntries())
	}
	asked := m.inForce.Tuning.Maps
	if asked.Ratio == 0 {
		asked.Ratio = 0.0025
	}
	flows, most := entries("flows"), max(int(memory*asked.Ratio*0.5/136), 16384)
	if flows > most || flows < most-most/8 || entries("frontends") != asked.Services {
		return fmt.Sprintf("%d flows and %d services", flows, entries("frontends"))
	}
	return m.chosen
}

// values is everything of the node that a setting changes, read anew.
func (m *matrix) values() string {
	h := kindtest.Open(m.t, m.o)
	defer h.Close()
	ns, err := h.NS("")
	m.must(err)
	links, err := ns.Links()
	m.must(err)
	qdiscs, err := ns.Qdiscs()
	m.must(err)
	var b strings.Builder
	slices.SortFunc(links, func(x, y *host.Link) int { return strings.Compare(x.Name, y.Name) })
	for _, l := range links {
		fmt.Fprintf(&b, "%s mtu %d sizes %d %d %d %d qdisc %s xdp %v\n", l.Name, l.MTU, l.GSOMaxSize, l.GROMaxSize, l.GSOIPv4MaxSize, l.GROIPv4MaxSize, l.Qdisc, l.XDP)
		for _, q := range qdiscs {
			if q.LinkIndex == l.Index {
				fmt.Fprintf(&b, "  qdisc %s handle %x\n", q.Kind, q.Handle)
			}
		}
	}
	m.must(ns.Do(func() error {
		for _, key := range append(slices.Clone(features.Sysctls), "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding") {
			data, err := os.ReadFile("/proc/sys/" + strings.ReplaceAll(key, ".", "/"))
			fmt.Fprintf(&b, "%s %q %t\n", key, data, err == nil)
		}
		sys, done, err := netns.Sysfs()
		if err != nil {
			return err
		}
		defer done()
		data, err := os.ReadFile(filepath.Join(sys, "class/net", matrixUplink, "queues/rx-0/rps_cpus"))
		fmt.Fprintf(&b, "rps %s", data)
		if err != nil {
			return err
		}
		chains, err := (&nftables.Conn{}).ListChains()
		for _, c := range chains {
			fmt.Fprintf(&b, "chain %s of %s\n", c.Name, c.Table.Name)
		}
		return err
	}))
	for _, path := range []string{"proc/irq/30/smp_affinity_list"} {
		fmt.Fprintf(&b, "%s %s\n", path, m.made(path))
	}
	return b.String()
}
