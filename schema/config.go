// Package schema holds the CUE schema of plumb's configuration and the Go types that a checked configuration decodes to.
//
// A zero value means that the user left the field out; defaults are the compiler's. Every field of the user-facing
// contract is here, also those whose feature the compiler still refuses.
package schema

// Config is a whole repository: every node's pods and services.
type Config struct {
	Nodes       map[string]Node    `json:"nodes,omitempty"`
	Pods        map[string]Pod     `json:"pods,omitempty"`
	PodDefaults Pod                `json:"podDefaults,omitzero"`
	Services    map[string]Service `json:"services,omitempty"`
	Routing     Routing            `json:"routing,omitzero"`
	Tuning      Tuning             `json:"tuning,omitzero"`
	Checks      map[string]Check   `json:"checks,omitempty"`
}

// Node is one machine. Routing, Tuning and PodDefaults override those of the whole configuration, field by field.
type Node struct {
	Uplinks     []string          `json:"uplinks,omitempty"`
	Addresses   []string          `json:"addresses,omitempty"`
	PodCIDRs    []string          `json:"podCIDRs,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	PodDefaults Pod               `json:"podDefaults,omitzero"`
	Routing     Routing           `json:"routing,omitzero"`
	Tuning      Tuning            `json:"tuning,omitzero"`
}

// Pod is one network namespace and its attachment.
type Pod struct {
	Node              string            `json:"node,omitempty"`
	Attach            string            `json:"attach,omitempty"`
	Uplink            string            `json:"uplink,omitempty"`
	Addresses         []string          `json:"addresses,omitempty"`
	Labels            map[string]string `json:"labels,omitempty"`
	MTU               int               `json:"mtu,omitempty"`
	Sysctls           map[string]string `json:"sysctls,omitempty"`
	Bandwidth         Bandwidth         `json:"bandwidth,omitzero"`
	NetNS             string            `json:"netns,omitempty"`
	Interface         string            `json:"interface,omitempty"`
	HostPorts         []HostPort        `json:"hostPorts,omitempty"`
	DNS               DNS               `json:"dns,omitzero"`
	CongestionControl string            `json:"congestionControl,omitempty"`
}

// Bandwidth limits a pod, in bit/s with K, M or G ("100M").
type Bandwidth struct {
	Egress  string `json:"egress,omitempty"`
	Ingress string `json:"ingress,omitempty"`
}

// HostPort maps a port of the node to a port of the pod.
type HostPort struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol,omitempty"`
}

// DNS is the pod's resolver configuration.
type DNS struct {
	Servers []string `json:"servers,omitempty"`
	Search  []string `json:"search,omitempty"`
}

// Service is a set of addresses and ports that stand for backends.
type Service struct {
	Addresses             []string          `json:"addresses,omitempty"`
	Ports                 map[string]Port   `json:"ports,omitempty"`
	Backends              []Backend         `json:"backends,omitempty"`
	Selector              map[string]string `json:"selector,omitempty"`
	ExternalAddresses     []string          `json:"externalAddresses,omitempty"`
	Algorithm             string            `json:"algorithm,omitempty"`
	TableSize             int               `json:"tableSize,omitempty"`
	Affinity              Affinity          `json:"affinity,omitzero"`
	SourceRanges          SourceRanges      `json:"sourceRanges,omitzero"`
	Forwarding            string            `json:"forwarding,omitempty"`
	ExternalTrafficPolicy string            `json:"externalTrafficPolicy,omitempty"`
	InternalTrafficPolicy string            `json:"internalTrafficPolicy,omitempty"`
	Health                Health            `json:"health,omitzero"`
}

// Port is one port of a service.
type Port struct {
	Port       int    `json:"port"`
	TargetPort int    `json:"targetPort,omitempty"`
	Protocol   string `json:"protocol,omitempty"`
	NodePort   int    `json:"nodePort,omitempty"`
}

// Backend is a pod or an address that answers for a service.
type Backend struct {
	Pod     string `json:"pod,omitempty"`
	Address string `json:"address,omitempty"`
	Port    int    `json:"port,omitempty"`
	Weight  *int   `json:"weight,omitempty"`
	State   string `json:"state,omitempty"`
}

// Affinity keeps a client on its backend for Timeout ("3h").
type Affinity struct {
	Timeout string `json:"timeout,omitempty"`
}

// SourceRanges says who may use a service from outside.
type SourceRanges struct {
	Allow []string `json:"allow,omitempty"`
	Deny  []string `json:"deny,omitempty"`
}

// Health is how backends are probed.
type Health struct {
	Type      string `json:"type,omitempty"`
	Path      string `json:"path,omitempty"`
	Interval  string `json:"interval,omitempty"`
	Timeout   string `json:"timeout,omitempty"`
	Failures  int    `json:"failures,omitempty"`
	Successes int    `json:"successes,omitempty"`
}

// Routing is how traffic is carried between pods, nodes and the outside.
type Routing struct {
	Mode              string   `json:"mode,omitempty"`
	DirectNodeRoutes  *bool    `json:"directNodeRoutes,omitempty"`
	HostRouting       string   `json:"hostRouting,omitempty"`
	Services          string   `json:"services,omitempty"`
	Masquerade        string   `json:"masquerade,omitempty"`
	MasqueradeExclude []string `json:"masqueradeExclude,omitempty"`
	NodePortRange     string   `json:"nodePortRange,omitempty"`
}

// Tuning is how a node is tuned.
type Tuning struct {
	MTU               int        `json:"mtu,omitempty"`
	BigTCP            string     `json:"bigTCP,omitempty"`
	BandwidthManager  string     `json:"bandwidthManager,omitempty"`
	ConntrackBypass   string     `json:"conntrackBypass,omitempty"`
	XDP               string     `json:"xdp,omitempty"`
	CongestionControl string     `json:"congestionControl,omitempty"`
	Maps              Maps       `json:"maps,omitzero"`
	Host              HostTuning `json:"host,omitzero"`
}

// Maps are the sizes of BPF maps, in entries, or as a ratio of the memory.
type Maps struct {
	Ratio    float64 `json:"ratio,omitempty"`
	Services int     `json:"services,omitempty"`
}

// HostTuning are settings of the machine itself.
type HostTuning struct {
	CPUGovernor string            `json:"cpuGovernor,omitempty"`
	IRQBalance  string            `json:"irqbalance,omitempty"`
	IRQAffinity map[string]string `json:"irqAffinity,omitempty"`
	Profile     string            `json:"profile,omitempty"`

	Rings    map[string]Rings    `json:"rings,omitempty"`
	Coalesce map[string]Coalesce `json:"coalesce,omitempty"`
}

// Rings are how many packets a device can hold for the host, and the host for it; 0 leaves one as it is.
type Rings struct {
	Rx int `json:"rx,omitempty"`
	Tx int `json:"tx,omitempty"`
}

// Coalesce says how long a device's interrupts wait for more packets; nil leaves a setting as it is.
type Coalesce struct {
	AdaptiveRx *bool `json:"adaptiveRx,omitempty"`
	AdaptiveTx *bool `json:"adaptiveTx,omitempty"`
	RxUsecs    *int  `json:"rxUsecs,omitempty"`
	RxFrames   *int  `json:"rxFrames,omitempty"`
	TxUsecs    *int  `json:"txUsecs,omitempty"`
	TxFrames   *int  `json:"txFrames,omitempty"`
}

// Check is one statement on reachability.
type Check struct {
	From   Endpoint  `json:"from"`
	To     Endpoint  `json:"to"`
	Expect string    `json:"expect,omitempty"`
	Within string    `json:"within,omitempty"`
	Type   string    `json:"type,omitempty"`
	HTTP   CheckHTTP `json:"http,omitzero"`
	UDP    CheckUDP  `json:"udp,omitzero"`
}

// CheckHTTP is what a check by HTTP asks for, and what the answer must be like.
type CheckHTTP struct {
	Path   string `json:"path,omitempty"`
	Host   string `json:"host,omitempty"`
	Status int    `json:"status,omitempty"`
	Body   string `json:"body,omitempty"`
}

// CheckUDP is what a check by UDP sends, and what the answer must be like.
type CheckUDP struct {
	Send  string `json:"send,omitempty"`
	Match string `json:"match,omitempty"`
}

// Endpoint is one side of a check.
type Endpoint struct {
	Pod     string `json:"pod,omitempty"`
	Node    string `json:"node,omitempty"`
	NetNS   string `json:"netns,omitempty"`
	Service string `json:"service,omitempty"`
	Address string `json:"address,omitempty"`
	Name    string `json:"name,omitempty"`
	Port    any    `json:"port,omitempty"` // a number, or the name of a service's port
}
