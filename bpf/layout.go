package bpf

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// The maps' entries in Go, as maps.h has them. A test compares the two.

// Address is 16 bytes; IPv4 as ::ffff:a.b.c.d.
type Address [16]byte

// AddressOf is an address as the maps have it.
func AddressOf(a netip.Addr) Address { return a.As16() }

// Addr is the address, IPv4 as such.
func (a Address) Addr() netip.Addr { return netip.AddrFrom16(a).Unmap() }

// Port is big endian.
type Port [2]byte

// PortOf is a port as the maps have it.
func PortOf(p uint16) (b Port) {
	binary.BigEndian.PutUint16(b[:], p)
	return b
}

// Number is the port's number.
func (p Port) Number() uint16 { return binary.BigEndian.Uint16(p[:]) }

// MAC is a link layer address; zero where there is none.
type MAC [6]byte

// String is the address as people write it; "" where there is none.
func (m MAC) String() string {
	if m == (MAC{}) {
		return ""
	}
	return net.HardwareAddr(m[:]).String()
}

// Protocols of frontends and flows, as IP headers have them.
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58
)

// Algorithms of a frontend.
const (
	Random     = 1
	RoundRobin = 2
	Maglev     = 3
)

// States of a backend.
const (
	Active      = 1
	Terminating = 2
	Maintenance = 3
	Down        = 4
)

// MaglevClasses are the sizes of the elements of the arrays of Maglev tables, in slots.
var MaglevClasses = [...]int{2039, 4093, 16381, 65521, 131071}

// MaglevClass is the class of tables of so many slots: the smallest that holds them, or the largest.
func MaglevClass(slots int) int {
	class, _ := slices.BinarySearch(MaglevClasses[:], slots)
	return min(class, len(MaglevClasses)-1)
}

// MaglevMap is the map of the tables of a class: "maglev_4093s" holds those of class 1.
func MaglevMap(class int) string { return fmt.Sprintf("maglev_%ds", MaglevClasses[class]) }

// FrontendKey is what clients talk to.
type FrontendKey struct {
	Addr  Address
	Port  Port
	Proto uint8
	Pad   uint8 // 0
}

// Frontend is a service, as its clients see it.
type Frontend struct {
	Service   uint64
	Slots     uint32
	Affinity  uint32 // s
	Table     uint32
	Size      uint32
	Next      uint32
	Algorithm uint8
	Class     uint8
	_         uint16
}

// SlotKey is one place in the list of a service's backends.
type SlotKey struct {
	Service uint64
	Slot    uint32
	Pad     uint32 // 0
}

// Backend answers for a service.
type Backend struct {
	Addr   Address
	ID     uint64
	Port   Port
	Weight uint16
	State  uint8
	_      [3]uint8
}

// MemberKey is an active backend of a service with affinity; its value is its slot.
type MemberKey struct{ Service, Backend uint64 }

// AffinityKey is a client of a service with affinity: its address, or the cookie of its network namespace in the first
// eight bytes.
type AffinityKey struct {
	Service uint64
	Client  Address
}

// Affinity is the backend of a client.
type Affinity struct{ Backend, Seen uint64 }

// Attachments of an endpoint.
const (
	Veth     = 1
	Netkit   = 2
	Bridge   = 3
	Macvlan  = 4
	IPvlanL2 = 5
	IPvlanL3 = 6
)

// Endpoint is a pod of this node; its key is one of its addresses.
type Endpoint struct {
	Ifindex uint32
	MAC     MAC
	HostMAC MAC
	Attach  uint8
	_       uint8
	MTU     uint16 // where a queue of the pair's end in the root namespace limits what the pod gets; else 0
}

// Pace is how fast a pod sends; its key is one of the pod's addresses.
type Pace struct {
	Lock struct{ Val uint32 }
	_    uint32
	Rate uint64 // bit/s
	Next uint64 // ns since boot: when the pod may send again
	With Address
}

// PeerKey is a peer of a socket.
type PeerKey struct {
	Cookie uint64
	Addr   Address
	Port   Port
	Proto  uint8
	_      [5]uint8
}

// Peer is what stands behind a peer, or before it.
type Peer struct {
	Addr    Address
	Service uint64
	Backend uint64
	Port    Port
	_       [6]uint8
}

// FlowKey is one direction of a flow, as its packets come.
type FlowKey struct {
	Src   Address
	Dst   Address
	Sport Port
	Dport Port
	Proto uint8
	_     [3]uint8
}

// Kinds of flow entries.
const (
	FlowForward        = 1
	FlowReverse        = 2
	FlowHairpinForward = 3
	FlowHairpinReverse = 4
	FlowMasquerade     = 5
	FlowUnmasquerade   = 6
)

// Bits of a flow's state.
const (
	FlowEstablished = 1
	FlowFinForward  = 2
	FlowFinReverse  = 4
	FlowReset       = 8
	FlowDisputed    = 16 // a connection to the backend itself had the same ports
)

// Flow says how packets of one direction are translated.
type Flow struct {
	Addr    Address
	Service uint64
	Backend uint64
	Seen    uint32 // s since boot
	Port    Port
	Kind    uint8
	State   uint8
}

// Forward reports whether the packets are those from the client.
func (f Flow) Forward() bool { return f.Kind == FlowForward || f.Kind == FlowHairpinForward }

// Closing reports whether both sides have closed the connection, or one of them has reset it.
func (f Flow) Closing() bool {
	const fins = FlowFinForward | FlowFinReverse
	return f.State&FlowReset != 0 || f.State&fins == fins
}

// Prefix is a range of destinations that isn't masqueraded.
type Prefix struct {
	Bits uint32 // of IPv4 addresses 96 more
	Addr Address
}

// PrefixOf is a range, masked, as the maps have it.
func PrefixOf(p netip.Prefix) Prefix {
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	return Prefix{uint32(bits), AddressOf(p.Addr())}
}

// Prefix is the range, IPv4 as such unless it is larger than IPv4.
func (p Prefix) Prefix() netip.Prefix {
	if a := p.Addr.Addr(); a.Is4() && p.Bits >= 96 {
		return netip.PrefixFrom(a, int(p.Bits)-96)
	}
	return netip.PrefixFrom(netip.AddrFrom16(p.Addr), int(p.Bits))
}

// Swept is the one entry of map "swept": the timer of program sweep, which nobody sees, and what came of it.
type Swept struct {
	_       [2]uint64
	At      uint64 // ns since boot: when the last sweep began; 0: none was made
	Took    uint64 // ns
	Deleted uint64 // entries, since the map was made
}

// Counters are the names of the entries of map "counters", in their order.
var Counters = [...]string{"forwarded", "routed", "translated", "spoofed", "no-backend", "invalid", "no-room", "masqueraded", "received", "too-fast"}

// Counted is one entry of map "counters" on one CPU.
type Counted struct{ Packets, Bytes uint64 }
