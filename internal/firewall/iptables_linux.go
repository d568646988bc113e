package firewall

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// LegacyForward is the number of the hook of forwarded packets.
const LegacyForward = 2

// legacyHooks are the hooks that forwarded packets pass, by their numbers.
var legacyHooks = []struct {
	number int
	chain  string
}{{0, "PREROUTING"}, {LegacyForward, "FORWARD"}, {4, "POSTROUTING"}}

// LegacyTables are the tables of legacy iptables, or ip6tables, that are there: somebody has asked for them, which needn't mean
// that they have rules. Files are read below root.
func LegacyTables(root string, v6 bool) []string {
	list := "ip_tables_names"
	if v6 {
		list = "ip6_tables_names"
	}
	data, err := os.ReadFile(root + "/proc/thread-self/net/" + list)
	if err != nil {
		return nil // the kernel has none, or nobody may know
	}
	return strings.Fields(string(data))
}

// legacyChains names the chains that have rules, or drop what has none, and those among them that translate addresses. Where
// that can't be read, a table that others most likely have for a reason counts.
func legacyChains(v6 bool) (names, nat []string) {
	tool := "iptables"
	if v6 {
		tool = "ip6tables"
	}
	for _, table := range LegacyTables("", v6) {
		var found []string
		if t, err := readLegacy(v6, table); err == nil {
			for _, h := range legacyHooks {
				if t.sees(h.number) {
					found = append(found, fmt.Sprintf("%s chain %s of table %s", tool, h.chain, table))
				}
			}
		} else if table == "nat" || table == "filter" {
			found = append(found, fmt.Sprintf("%s table %s", tool, table))
		}
		names = append(names, found...)
		if table == "nat" {
			nat = append(nat, found...)
		}
	}
	return names, nat
}

// LegacyDrops reports whether the chain of a hook drops what no rule of it accepts. It must be one of [LegacyTables]: asking for
// another table would load it.
func LegacyDrops(v6 bool, table string, hook int) (bool, error) {
	t, err := readLegacy(v6, table)
	if err != nil {
		return false, err
	}
	return t.drops(hook)
}

// legacy is a table as the kernel gives it.
type legacy struct {
	v6               bool
	valid            uint32 // a bit for each hook
	first, underflow [5]int // where the entries of a hook begin, and what packets fall through to
	entries          []byte
}

// Layouts of linux/netfilter_ipv4/ip_tables.h and its IPv6 twin, the same on all architectures but for the entry's head.
const (
	soGetInfo    = 64 // IPT_SO_GET_INFO, IP6T_SO_GET_INFO
	soGetEntries = 65
	nameLen      = 32
	infoSize     = 84
)

func readLegacy(v6 bool, name string) (*legacy, error) {
	domain, level := unix.AF_INET, unix.IPPROTO_IP
	if v6 {
		domain, level = unix.AF_INET6, unix.IPPROTO_IPV6
	}
	fd, err := unix.Socket(domain, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	info := make([]byte, infoSize)
	copy(info, name)
	if err := getsockopt(fd, level, soGetInfo, info); err != nil {
		return nil, err
	}
	t := &legacy{v6: v6, valid: nl.NativeEndian().Uint32(info[nameLen:])}
	u32 := func(at int) int { return int(nl.NativeEndian().Uint32(info[at:])) }
	for h := range t.first {
		t.first[h], t.underflow[h] = u32(nameLen+4+4*h), u32(nameLen+4+20+4*h)
	}
	size := u32(80)
	head := 40 // name and size, aligned
	if unsafe.Alignof(uint64(0)) == 4 {
		head = 36
	}
	table := make([]byte, head+size)
	copy(table, name)
	nl.NativeEndian().PutUint32(table[nameLen:], uint32(size))
	if err := getsockopt(fd, level, soGetEntries, table); err != nil {
		return nil, err
	}
	t.entries = table[head:]
	return t, nil
}

// sees reports whether the chain of a hook does anything to packets.
func (t *legacy) sees(hook int) bool {
	if t.valid&(1<<hook) == 0 {
		return false
	}
	drops, err := t.drops(hook)
	return t.first[hook] != t.underflow[hook] || drops || err != nil
}

// drops looks at the entry that packets fall through to: a standard target whose verdict is -NF_DROP-1.
func (t *legacy) drops(hook int) (bool, error) {
	at := t.underflow[hook]
	targetOffset := at + 88 // behind struct ipt_ip and nfcache
	if t.v6 {
		targetOffset = at + 140
	}
	if at < 0 || targetOffset+2 > len(t.entries) {
		return false, errors.New("a table that is laid out in another way")
	}
	target := at + int(nl.NativeEndian().Uint16(t.entries[targetOffset:]))
	if target+36 > len(t.entries) {
		return false, errors.New("a table that is laid out in another way")
	}
	return int32(nl.NativeEndian().Uint32(t.entries[target+32:])) == -1, nil
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
