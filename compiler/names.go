package compiler

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"cuelang.org/go/cue/ast"
)

// The devices that plumb makes in the root namespace besides one end for each pair.
const (
	bridgeName  = "plumb0" // the bridge
	detourName  = "plumb1" // inside an ipvlan-l3 pod: the pair that leads to pods of other attachments
	macvlanHost = "plm-"   // + uplink: the host's own child among macvlan pods
	ipvlanHost  = "pli-"   // + uplink: the same among ipvlan pods
	pairHost    = "pl-"    // + pod: the host's end of a pair
	detourHost  = "pl3-"   // + pod: the host's end of a detour
)

// maxDevName is the longest name that the kernel gives a device.
const maxDevName = 15

// field is the CUE path of an entry: field("pods", "web-1") is `pods."web-1"`.
func field(parent, label string) string {
	if ast.StringLabelNeedsQuoting(label) {
		label = strconv.Quote(label)
	}
	if parent == "" {
		return label
	}
	return parent + "." + label
}

// element is the CUE path of an element of a list.
func element(list string, i int) string { return list + "[" + strconv.Itoa(i) + "]" }

// digest hashes words, such that no two lists of words run together.
func digest(words ...string) [sha256.Size]byte {
	var buf [128]byte
	b := buf[:0]
	for _, w := range words {
		b = append(append(b, w...), 0)
	}
	return sha256.Sum256(b)
}

// names gives the devices of one node their names and MACs: the same ones for the same configuration, no two alike.
type names struct {
	node string
	devs map[string]bool
	macs map[[5]byte]bool // what follows "02:"
}

func newNames(n *node, size int) *names {
	s := &names{node: n.name, devs: make(map[string]bool, size), macs: make(map[[5]byte]bool, 2*size)}
	s.devs["lo"] = true
	s.devs[bridgeName] = true
	for _, u := range n.Uplinks {
		s.devs[u] = true
	}
	return s
}

// dev derives a device's name in the root namespace from what it is for. Long names are cut and get a hash, short ones
// stay shorter than those, so that only hashes can meet; who comes later in the order of names then takes another hash.
func (s *names) dev(prefix, name string) string {
	dev := prefix + name
	for try := 0; len(dev) >= maxDevName || s.devs[dev]; try++ {
		hash := digest("dev", s.node, prefix+name, strconv.Itoa(try))
		keep := min(len(name), maxDevName-len(prefix)-7)
		dev = fmt.Sprintf("%s%s-%x", prefix, name[:keep], hash[:3])
		if !s.devs[dev] {
			break
		}
	}
	s.devs[dev] = true
	return dev
}

// mac derives a locally administered unicast MAC for one end of a pod's link.
func (s *names) mac(pod, end string) string {
	for try := 0; ; try++ {
		hash := digest("mac", s.node, pod, end)
		if try > 0 {
			hash = digest("mac", s.node, pod, end, strconv.Itoa(try))
		}
		mac := [5]byte(hash[:5])
		if !s.macs[mac] {
			s.macs[mac] = true
			return formatMAC(mac)
		}
	}
}

func formatMAC(mac [5]byte) string {
	const hex = "0123456789abcdef"
	b := [17]byte{'0', '2'}
	for i, x := range mac {
		b[2+3*i], b[3+3*i], b[4+3*i] = ':', hex[x>>4], hex[x&15]
	}
	return string(b[:])
}

// linkLocal is the link-local address of a device. The kernel's own is off: it would wait for duplicate detection.
func (s *names) linkLocal(pod, dev string) netip.Addr {
	hash := digest("link-local", s.node, pod, dev)
	a := [16]byte{0: 0xfe, 1: 0x80}
	copy(a[8:], hash[:8])
	return netip.AddrFrom16(a)
}

// sysctlPart writes a device's name as part of a sysctl's key: dots in it become slashes, as sysctl(8) has it.
func sysctlPart(dev string) string { return strings.ReplaceAll(dev, ".", "/") }
