package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"strings"
	"unsafe"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/reconciler/resource"
)

var nftFamilies = map[nftables.TableFamily]string{
	nftables.TableFamilyINet: "inet", nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
}

// nftables warns of base chains that drop what is forwarded. The calling thread is in the namespace.
func (s *surroundings) nftables() {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return // a kernel without nftables drops nothing by it
	}
	defer conn.CloseLasting()
	chains, err := conn.ListChains()
	switch {
	case errors.Is(err, unix.EPERM):
		s.say("can't read the nftables rules: %v", err)
		return
	case err != nil:
		return
	}
	for _, c := range chains {
		family := nftFamilies[c.Table.Family]
		if c.Hooknum == nil || *c.Hooknum != *nftables.ChainHookForward || c.Policy == nil || *c.Policy != nftables.ChainPolicyDrop ||
			family == "" || (family == "inet" && c.Table.Name == resource.NftTable) {
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			rules = nil
		}
		var add []string
		for _, p := range s.pods {
			word := map[bool]string{true: "ip", false: "ip6"}[p.Addr().Is4()]
			if family != "inet" && family != word {
				continue
			}
			for _, dir := range []string{"saddr", "daddr"} {
				if !slices.ContainsFunc(rules, func(r *nftables.Rule) bool { return accepts(r, p, dir == "saddr") }) {
					add = append(add, fmt.Sprintf("nft add rule %s %s %s %s %s %s accept", family, c.Table.Name, c.Name, word, dir, p))
				}
			}
		}
		if len(add) > 0 {
			s.drops = true
			s.say("nftables chain %s of table %s %s drops what no rule of it accepts, forwarded packets of pods too; run: %s",
				c.Name, family, c.Table.Name, strings.Join(add, "; "))
		}
	}
}

// accepts reports whether a rule accepts packets from (or to) a whole range of addresses, in the form that the warning
// asks for.
func accepts(r *nftables.Rule, p netip.Prefix, source bool) bool {
	offset := map[[2]bool]uint32{{true, true}: 12, {true, false}: 16, {false, true}: 8, {false, false}: 24}[[2]bool{p.Addr().Is4(), source}]
	network := p.Masked().Addr().AsSlice()
	there, compared, verdict := false, false, false
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Payload:
			there = e.Base == expr.PayloadBaseNetworkHeader && e.Offset == offset
		case *expr.Cmp:
			// A prefix of whole bytes is compared without its zeros.
			if there && e.Op == expr.CmpOpEq && len(e.Data) > 0 && bytes.HasPrefix(network, e.Data) && len(e.Data)*8 >= p.Bits() {
				compared = true
			}
		case *expr.Verdict:
			verdict = e.Kind == expr.VerdictAccept
		}
	}
	return compared && verdict
}

// iptables warns of a legacy filter table that drops what is forwarded. It asks only for tables that are loaded: asking
// for another one would load it. The calling thread is in the namespace.
func (s *surroundings) iptables() {
	for _, v := range []struct {
		is4           bool
		list, tool    string
		level, domain int
	}{
		{true, "ip_tables_names", "iptables", unix.IPPROTO_IP, unix.AF_INET},
		{false, "ip6_tables_names", "ip6tables", unix.IPPROTO_IPV6, unix.AF_INET6},
	} {
		data, err := os.ReadFile(s.path("proc/thread-self/net/" + v.list))
		if errors.Is(err, fs.ErrNotExist) || !s.family(v.is4) || !slices.Contains(strings.Fields(string(data)), "filter") {
			continue
		}
		drop, err := forwardDrops(v.domain, v.level)
		switch {
		case err != nil:
			s.say("the %s filter table is in use and can't be read (%v): if its FORWARD policy is DROP, packets of pods are lost (%s -S FORWARD)", v.tool, err, v.tool)
		case drop:
			var add []string
			for _, p := range s.pods {
				if p.Addr().Is4() == v.is4 {
					add = append(add, fmt.Sprintf("%s -A FORWARD -s %s -j ACCEPT; %s -A FORWARD -d %s -j ACCEPT", v.tool, p, v.tool, p))
				}
			}
			s.drops = true
			s.say("chain FORWARD of the %s filter table has the policy DROP: packets of pods that no rule accepts are lost; unless rules accept them already, run: %s",
				v.tool, strings.Join(add, "; "))
		}
	}
}

// Layouts of linux/netfilter_ipv4/ip_tables.h and its IPv6 twin, the same on all architectures but for the entry's head.
const (
	soGetInfo    = 64 // IPT_SO_GET_INFO, IP6T_SO_GET_INFO
	soGetEntries = 65
	hookForward  = 2
	nameLen      = 32
	infoSize     = 84
)

// forwardDrops reads the policy of chain FORWARD: the verdict of the entry that packets fall through to.
func forwardDrops(domain, level int) (bool, error) {
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	info := make([]byte, infoSize)
	copy(info, "filter")
	if err := getsockopt(fd, level, soGetInfo, info); err != nil {
		return false, err
	}
	u32 := func(b []byte, at int) int { return int(nl.NativeEndian().Uint32(b[at:])) }
	size := u32(info, 80)
	underflow := u32(info, nameLen+4+20+4*hookForward)
	head := 40 // name and size, aligned
	if unsafe.Alignof(uint64(0)) == 4 {
		head = 36
	}
	table := make([]byte, head+size)
	copy(table, "filter")
	nl.NativeEndian().PutUint32(table[nameLen:], uint32(size))
	if err := getsockopt(fd, level, soGetEntries, table); err != nil {
		return false, err
	}
	return policyDrops(table[head:], underflow, level == unix.IPPROTO_IPV6)
}

// policyDrops looks at the entry at an offset: a standard target whose verdict is -NF_DROP-1.
func policyDrops(entries []byte, at int, v6 bool) (bool, error) {
	targetOffset := at + 88 // behind struct ipt_ip and nfcache
	if v6 {
		targetOffset = at + 140
	}
	if at < 0 || targetOffset+2 > len(entries) {
		return false, errors.New("a table that is laid out in another way")
	}
	target := at + int(nl.NativeEndian().Uint16(entries[targetOffset:]))
	if target+36 > len(entries) {
		return false, errors.New("a table that is laid out in another way")
	}
	return int32(nl.NativeEndian().Uint32(entries[target+32:])) == -1, nil
}

func getsockopt(fd, level, opt int, buf []byte) error {
	size := uint32(len(buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(opt),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}
