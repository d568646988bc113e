package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/netns"
)

// errMissing says that the kernel hasn't got what a test is about.
var errMissing = errors.New("this test needs a kernel with legacy iptables and IPsec")

// inside runs the test in a namespace of its own.
func inside(t *testing.T, f func() error) {
	t.Helper()
	ns, err := netns.New(f)
	switch {
	case err == nil:
		ns.Close()
	case (errors.Is(err, errMissing) || errors.Is(err, unix.EPERM)) && os.Getenv("CI") == "":
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}

func expect(t *testing.T, when string, want ...string) {
	t.Helper()
	got, nat, err := Others()
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q; %v", when, got, want, err)
	}
	want = slices.DeleteFunc(slices.Clone(want), func(name string) bool { return !strings.HasSuffix(name, " nat") })
	if !slices.Equal(nat, want) {
		t.Errorf("%s: of them translate %q, want %q", when, nat, want)
	}
}

// Of nftables, chains of others count where forwarded packets pass: with rules, or if they drop what has none.
func TestNFTables(t *testing.T) {
	inside(t, func() error {
		expect(t, "a new namespace")
		conn := &nftables.Conn{}
		drop, accept := nftables.ChainPolicyDrop, nftables.ChainPolicyAccept
		for _, c := range []struct {
			family      nftables.TableFamily
			table, name string
			kind        nftables.ChainType
			policy      nftables.ChainPolicy
			hook        *nftables.ChainHook
			rule        bool
		}{
			{nftables.TableFamilyINet, "filter", "strict", nftables.ChainTypeFilter, drop, nftables.ChainHookForward, false},
			{nftables.TableFamilyIPv4, "filter", "FORWARD", nftables.ChainTypeFilter, accept, nftables.ChainHookForward, true},
			{nftables.TableFamilyIPv6, "nat", "out", nftables.ChainTypeNAT, accept, nftables.ChainHookPostrouting, true},
			{nftables.TableFamilyIPv4, "nat", "in", nftables.ChainTypeNAT, accept, nftables.ChainHookPrerouting, true},
			{nftables.TableFamilyINet, "filter", "idle", nftables.ChainTypeFilter, accept, nftables.ChainHookForward, false},
			{nftables.TableFamilyINet, "filter", "input", nftables.ChainTypeFilter, drop, nftables.ChainHookInput, true},
			{nftables.TableFamilyINet, "filter", "output", nftables.ChainTypeFilter, drop, nftables.ChainHookOutput, true},
			{nftables.TableFamilyINet, ownTable, "ours", nftables.ChainTypeFilter, drop, nftables.ChainHookForward, true},
		} {
			chain := conn.AddChain(&nftables.Chain{
				Table: conn.AddTable(&nftables.Table{Family: c.family, Name: c.table}), Name: c.name,
				Type: c.kind, Hooknum: c.hook, Priority: nftables.ChainPriorityFilter, Policy: &c.policy,
			})
			if c.rule {
				conn.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: []expr.Any{&expr.Counter{}}})
			}
		}
		called := conn.AddChain(&nftables.Chain{Table: &nftables.Table{Family: nftables.TableFamilyINet, Name: "filter"}, Name: "called"})
		conn.AddRule(&nftables.Rule{Table: called.Table, Chain: called, Exprs: []expr.Any{&expr.Counter{}}})
		if err := conn.Flush(); err != nil {
			return err
		}
		expect(t, "chains", "nftables chain FORWARD of table ip filter", "nftables chain in of table ip nat",
			"nftables chain out of table ip6 nat", "nftables chain strict of table inet filter")
		conn.FlushRuleset()
		if err := conn.Flush(); err != nil {
			return err
		}
		expect(t, "afterwards")
		return nil
	})
}

// A table of legacy iptables that somebody only asked for is empty, and doesn't count.
func TestLegacy(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		inside(t, func() error {
			table, err := readLegacy(v6, "filter") // which loads it
			if err != nil {
				return fmt.Errorf("%w: %w", errMissing, err)
			}
			if got := LegacyTables("", v6); !slices.Contains(got, "filter") {
				return fmt.Errorf("tables %q", got)
			}
			expect(t, "an empty table")
			if drops, err := LegacyDrops(v6, "filter", LegacyForward); drops || err != nil {
				t.Errorf("the empty table drops %v, %v", drops, err)
			}
			name := map[bool]string{false: "iptables chain FORWARD of table filter", true: "ip6tables chain FORWARD of table filter"}[v6]

			forward := slices.Clone(table.entries[table.underflow[LegacyForward]:table.underflow[3]])
			ruled := *table
			ruled.entries = slices.Insert(slices.Clone(table.entries), table.underflow[LegacyForward], forward...)
			ruled.underflow[LegacyForward] += len(forward)
			ruled.first[3], ruled.underflow[3] = ruled.first[3]+len(forward), ruled.underflow[3]+len(forward)
			if err := ruled.write("filter", 5); err != nil {
				return err
			}
			expect(t, "a rule", name)

			strict := *table
			strict.entries = slices.Clone(table.entries)
			verdict := strict.underflow[LegacyForward] + len(forward) - 8 // standard targets end in it, padded to 8 bytes
			binary.NativeEndian.PutUint32(strict.entries[verdict:], ^uint32(0))
			if err := strict.write("filter", 4); err != nil {
				return err
			}
			expect(t, "a policy", name)
			if drops, err := LegacyDrops(v6, "filter", LegacyForward); !drops || err != nil {
				t.Errorf("policy DROP drops %v, %v", drops, err)
			}
			if err := table.write("filter", 4); err != nil {
				return err
			}
			expect(t, "afterwards")
			return nil
		})
	}
}

// counters are where the kernel writes to while a system call lasts, which it must not move in.
var counters [64]uint64

// write replaces the table, as struct ipt_replace says. The kernel gives back the counters of as many entries as there were.
func (t *legacy) write(name string, entries int) error {
	domain, level := unix.AF_INET, unix.IPPROTO_IP
	if t.v6 {
		domain, level = unix.AF_INET6, unix.IPPROTO_IPV6
	}
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	info := make([]byte, infoSize)
	copy(info, name)
	if err := getsockopt(fd, level, soGetInfo, info); err != nil {
		return err
	}
	before := binary.NativeEndian.Uint32(info[76:])
	if int(2*before) > len(counters) {
		return errors.New("a table of too many entries")
	}
	b := make([]byte, nameLen)
	copy(b, name)
	u32 := func(v int) { b = binary.NativeEndian.AppendUint32(b, uint32(v)) }
	u32(int(t.valid))
	u32(entries)
	u32(len(t.entries))
	for _, list := range [][5]int{t.first, t.underflow} {
		for _, v := range list {
			u32(v)
		}
	}
	u32(int(before))
	at := uintptr(unsafe.Pointer(&counters[0]))
	if unsafe.Sizeof(at) == 4 {
		u32(int(at))
	} else {
		b = binary.NativeEndian.AppendUint64(b, uint64(at))
	}
	b = append(b, t.entries...)
	_, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), 64, uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// The policy of a legacy chain is the verdict of a standard target; the bytes are those of an empty filter table.
func TestLegacyPolicy(t *testing.T) {
	entry := func(head int, verdict int32) []byte {
		b := make([]byte, head+40)
		off := map[int]int{112: 88, 168: 140}[head]
		b[off], b[off+1] = byte(head), byte(head>>8)
		b[off+2], b[off+3] = byte(len(b)), byte(len(b)>>8)
		b[head] = 40
		b[head+32], b[head+33], b[head+34], b[head+35] = byte(verdict), byte(verdict>>8), byte(verdict>>16), byte(verdict>>24)
		return b
	}
	for _, c := range []struct {
		head int
		v6   bool
	}{{112, false}, {168, true}} {
		entries := append(entry(c.head, -2), entry(c.head, -1)...)
		drops := func(at int) (bool, error) {
			return (&legacy{v6: c.v6, underflow: [5]int{LegacyForward: at}, entries: entries}).drops(LegacyForward)
		}
		for at, want := range map[int]bool{0: false, c.head + 40: true} {
			if got, err := drops(at); err != nil || got != want {
				t.Errorf("v6 %v entry at %d: drops %v, %v", c.v6, at, got, err)
			}
		}
		if _, err := drops(len(entries) - 20); err == nil {
			t.Error("a torn table is read")
		}
	}
}

// IPsec policies count that take packets of whatever device; one that lets them through as they are doesn't.
func TestIPsec(t *testing.T) {
	inside(t, func() error {
		h, err := netlink.NewHandle(unix.NETLINK_XFRM)
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			return fmt.Errorf("%w: %w", errMissing, err)
		}
		if err != nil {
			return err
		}
		defer h.Close()
		_, far, _ := net.ParseCIDR("10.9.0.0/16")
		policy := netlink.XfrmPolicy{Src: &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, Dst: far, Dir: netlink.XFRM_DIR_OUT}
		if err := h.XfrmPolicyAdd(&policy); err != nil {
			return err
		}
		expect(t, "a policy that lets all through")
		policy.Tmpls = []netlink.XfrmPolicyTmpl{{
			Src: net.ParseIP("192.0.2.1"), Dst: net.ParseIP("192.0.2.2"), Proto: netlink.XFRM_PROTO_ESP, Mode: netlink.XFRM_MODE_TUNNEL,
		}}
		if err := h.XfrmPolicyUpdate(&policy); err != nil {
			return err
		}
		expect(t, "a tunnel", "IPsec policies")
		if err := h.XfrmPolicyDel(&policy); err != nil {
			return err
		}
		expect(t, "afterwards")
		return nil
	})
}
