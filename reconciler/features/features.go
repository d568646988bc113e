// Package features says what a kernel can do: the names, the answers, and the probes that find them by trying.
//
// An answer has three values. True and false come from a probe that ran to its end; null means that the probe could not
// tell, and carries the reason. Nothing here is derived from a version number.
package features

// Feature names one ability of a kernel.
type Feature string

// The abilities that resources of this module ask for. Names are stable: recorded feature files hold them.
const (
	NetNS         Feature = "netns"           // create and name a network namespace
	IPv6          Feature = "ipv6"            // the kernel has IPv6 and it isn't switched off
	LinkVeth      Feature = "link.veth"       // veth pairs
	LinkBridge    Feature = "link.bridge"     // bridges
	LinkMacvlan   Feature = "link.macvlan"    // macvlan in bridge mode
	LinkIPvlanL2  Feature = "link.ipvlan-l2"  // ipvlan in l2 mode
	LinkIPvlanL3  Feature = "link.ipvlan-l3"  // ipvlan in l3 mode
	LinkNetkit    Feature = "link.netkit"     // netkit pairs
	AddrProtocol  Feature = "addr.protocol"   // IFA_PROTO is stored with an address
	NeighProtocol Feature = "neigh.protocol"  // NDA_PROTOCOL is stored with a neighbour entry
	PeerGroup     Feature = "link.peer-group" // IFLA_GROUP is honoured among the attributes of a peer
)

// Status is the answer for one feature.
type Status struct {
	Supported *bool  `json:"supported"`       // nil: the probe could not tell
	Reason    string `json:"reason"`          // what the kernel said, or how the answer was found
	Since     string `json:"since,omitempty"` // the first upstream version that a person would look for; never used to decide
}

// Device is one network device of the host.
type Device struct {
	MTU    int    `json:"mtu"`
	Driver string `json:"driver"`
	XDP    string `json:"xdp"` // native, generic or none
	// XDPUnknown says that the kernel doesn't tell whether the driver has native XDP: then XDP is generic.
	XDPUnknown bool   `json:"xdp_unknown,omitempty"`
	Reason     string `json:"reason"`
	Wireless   bool   `json:"wireless,omitempty"`
	// NoEthernet says that its packets have no Ethernet header, as those of WireGuard and of many tunnels.
	NoEthernet bool `json:"no_ethernet,omitempty"`
	// RXQueues and TXQueues are how many queues are in use; 0 where nobody looked.
	RXQueues int `json:"rx_queues,omitempty"`
	TXQueues int `json:"tx_queues,omitempty"`
	// GSOLimit is the largest packet that the driver cuts itself, in bytes; 0 where the kernel doesn't say.
	GSOLimit int `json:"gso_limit,omitempty"`
	// MaxMTU is the largest MTU that the driver takes; 0 where the kernel doesn't say.
	MaxMTU int `json:"max_mtu,omitempty"`
	// RXRing and TXRing are the largest rings that the driver takes, in packets; 0 where it has none to set.
	RXRing int `json:"rx_ring,omitempty"`
	TXRing int `json:"tx_ring,omitempty"`
	// Coalesce says that the driver can be told how long interrupts wait for more packets.
	Coalesce bool `json:"coalesce,omitempty"`
	// Qdisc is the root queueing discipline that somebody configured, with its handle: "htb 1:". It is "" for the kernel's own
	// choice and for plumb's.
	Qdisc string `json:"qdisc,omitempty"`
	// IRQs are the numbers of the device's interrupts, those of its queues as far as their names tell; those of one kind stand together.
	IRQs []int `json:"irqs,omitempty"`
	// LocalCPUs are the processors that the device's memory is near to, as a list; "" where the machine doesn't say.
	LocalCPUs string `json:"local_cpus,omitempty"`
}

// HostFacts are what compiling needs to know of a host beyond its kernel.
type HostFacts struct {
	MemoryBytes int64             `json:"memory_bytes"`
	CPUs        int               `json:"cpus"`
	Devices     map[string]Device `json:"devices"`
	// Congestion is how TCP can be kept from flooding a path; nil where the kernel doesn't tell.
	Congestion *Congestion `json:"congestion,omitempty"`
	// Sysctls are those of [Sysctls] that the namespace has; nil where nobody looked.
	Sysctls []string `json:"sysctls,omitempty"`
	// Preempt is when the kernel takes the processor from what it is doing itself: none, voluntary, lazy, full or rt; "" where
	// it doesn't tell.
	Preempt string `json:"preempt,omitempty"`
	// OnlineCPUs are the processors that run, as a list: "0-3"; "" where nobody looked.
	OnlineCPUs string `json:"online_cpus,omitempty"`
	// IsolatedCPUs are those of them that are kept free of what isn't placed there by name, as a list.
	IsolatedCPUs string `json:"isolated_cpus,omitempty"`
	// Governors are the ways to find a frequency, for each group of processors that shares one ("policy0"). It is empty where
	// frequencies can't be set, and nil where nobody looked.
	Governors map[string][]string `json:"governors,omitzero"`
	// LocalPorts are those that the node's own connections are given: "32768-60999"; "" where nobody looked.
	LocalPorts string `json:"local_ports,omitempty"`
	// Firewall is what others have that forwarded packets pass, in order: "nftables chain forward of table inet filter",
	// "iptables chain POSTROUTING of table nat", "IPsec policies". Chains without rules that drop nothing don't count.
	Firewall []string `json:"firewall,omitempty"`
	// Translating are the chains among them that translate addresses.
	Translating []string `json:"translating,omitempty"`
	// Guest says that the network namespace isn't the machine's own, so that what belongs to the whole machine is somebody
	// else's to set.
	Guest bool `json:"guest,omitempty"`
}

// Congestion are the algorithms of TCP's congestion control.
type Congestion struct {
	Available []string `json:"available"` // that the kernel has now; modules that aren't loaded are missing
	Allowed   []string `json:"allowed"`   // that namespaces other than the first one may have
}

// Sysctls are the settings whose being there is a fact of a host: a namespace other than the first one has few of them.
var Sysctls = []string{
	"net.core.busy_poll", "net.core.busy_read", "net.core.somaxconn",
	"net.ipv4.tcp_congestion_control", "net.ipv4.tcp_fastopen", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}

// Set is everything that is known of one machine. It is the file that `plumb features -o json` writes.
type Set struct {
	FormatVersion string             `json:"format_version"`
	Kernel        string             `json:"kernel"`
	Arch          string             `json:"arch"`
	Features      map[Feature]Status `json:"features"`
	Host          *HostFacts         `json:"host,omitempty"`
	Note          string             `json:"note,omitempty"` // says so when a file was written by hand
	// AcceptAll makes every feature supported: `validate` without a features file.
	AcceptAll bool `json:"-"`
}

// Supports reports whether f is known to be there.
func (s *Set) Supports(f Feature) bool {
	if s.AcceptAll {
		return true
	}
	st := s.Features[f]
	return st.Supported != nil && *st.Supported
}

// Why returns the reason of the answer for f, as a sentence part for people.
func (s *Set) Why(f Feature) string {
	if s.AcceptAll {
		return "every feature is accepted"
	}
	st, ok := s.Features[f]
	if !ok {
		return "not probed on kernel " + s.Kernel
	}
	if st.Reason != "" {
		return st.Reason
	}
	return "no reason recorded"
}
