package resource

import (
	"net/netip"
	"time"
)

// Frontend is what clients of a service talk to, and who answers.
type Frontend struct {
	Address   netip.Addr
	Port      uint16
	Protocol  string // "TCP" or "UDP"
	Algorithm string
	TableSize int           // Maglev: slots of the table; else 0
	Affinity  time.Duration // whole seconds; 0 for none
	Backends  []Backend     // ordered by address and port, no two alike
}

// FrontendKey is what no two frontends have in common.
type FrontendKey struct {
	At       netip.AddrPort
	Protocol string
}

// Backend answers for a frontend of its own family.
type Backend struct {
	Address netip.Addr
	Port    uint16
	Weight  int // 0 gets nothing new
	State   string
}

// Algorithms of a frontend.
const (
	Random     = "random"
	RoundRobin = "round-robin"
	Maglev     = "maglev"
)

// States of a backend.
const (
	Active      = "active"
	Terminating = "terminating" // finishes what it has, gets nothing new
	Maintenance = "maintenance" // gets nothing new, and isn't looked after
	Down        = "down"        // doesn't answer probes: gets nothing new; never what the files ask for
)

// At is what clients talk to.
func (f Frontend) At() netip.AddrPort { return netip.AddrPortFrom(f.Address, f.Port) }

// Key tells a frontend from all others.
func (f Frontend) Key() FrontendKey { return FrontendKey{f.At(), f.Protocol} }

// At is where a backend answers.
func (b Backend) At() netip.AddrPort { return netip.AddrPortFrom(b.Address, b.Port) }

// Compare orders backends as frontends list them.
func (b Backend) Compare(o Backend) int { return b.At().Compare(o.At()) }

// Name is how people read a frontend: "10.96.0.100:80/TCP", "[fd00::1]:80/UDP".
func (f Frontend) Name() string {
	return string(append(f.At().AppendTo(make([]byte, 0, 64)), "/"+f.Protocol...))
}
