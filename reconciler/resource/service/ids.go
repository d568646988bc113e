package service

import (
	"net/netip"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/reconciler/resource"
)

// HashID is the id in the maps of a service, by its address, or of a backend: FNV-1a of address, port and protocol. Two of
// a node's may not be the same.
func HashID(addr netip.Addr, port uint16, protocol string) uint64 {
	return hashID(bpf.AddressOf(addr), bpf.PortOf(port), number(protocols[:], protocol))
}

// ID is the id of a frontend in the maps.
func ID(f resource.Frontend) uint64 { return HashID(f.Address, f.Port, f.Protocol) }

func hashID(addr bpf.Address, port bpf.Port, proto uint8) uint64 {
	h, rest := fnvStart, addr[:]
	if [12]byte(rest) == mapped {
		h, rest = fnvMapped, rest[12:] // most addresses begin so
	}
	for _, b := range rest {
		h = (h ^ uint64(b)) * fnvPrime
	}
	h = (h ^ uint64(port[0])) * fnvPrime
	h = (h ^ uint64(port[1])) * fnvPrime
	return (h ^ uint64(proto)) * fnvPrime
}

const (
	fnvStart uint64 = 14695981039346656037
	fnvPrime uint64 = 1099511628211
)

// mapped is how IPv4 addresses begin, and fnvMapped its hash.
var (
	mapped    = [12]byte{10: 0xff, 11: 0xff}
	fnvMapped = func() uint64 {
		h := fnvStart
		for _, b := range mapped {
			h = (h ^ uint64(b)) * fnvPrime
		}
		return h
	}()
)
