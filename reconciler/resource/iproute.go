package resource

import "fmt"

// What iproute2 calls things, for those who print somebody else's objects and the commands that take them away.

// Unmarked is the owner of an object of which the kernel says nothing but that it isn't plumb's.
const Unmarked = "not marked as plumb's"

// ProtocolOwner says whose a foreign route, rule or neighbour entry is, by its protocol number: "protocol static".
func ProtocolOwner(protocol int) string {
	if protocol == Protocol {
		return "protocol 112 (plumb, another node)"
	}
	return "protocol " + ProtocolName(protocol)
}

// ProtocolName is the name of a routing protocol number as in iproute2's rt_protos.
func ProtocolName(protocol int) string {
	if name, ok := map[int]string{
		0: "unspec", 1: "redirect", 2: "kernel", 3: "boot", 4: "static", 8: "gated", 9: "ra", 10: "mrt", 11: "zebra",
		12: "bird", 13: "dnrouted", 14: "xorp", 15: "ntk", 16: "dhcp", 17: "mrouted", 18: "keepalived", 42: "babel",
		99: "openr", 186: "bgp", 187: "isis", 188: "ospf", 189: "rip", 192: "eigrp",
	}[protocol]; ok {
		return name
	}
	return fmt.Sprint(protocol)
}

// TableName is the name of a routing table number as in iproute2's rt_tables.
func TableName(table int) string {
	switch table {
	case 253:
		return "default"
	case 254:
		return "main"
	case 255:
		return "local"
	}
	return fmt.Sprint(table)
}

// Adopter is a namespace that may be one that plumb didn't make.
type Adopter interface {
	// Adopts is the path of the adopted namespace, "" for one of plumb's own.
	Adopts() string
}

// IPCommand begins a command of ip(8) in a pod's namespace: "ip", "ip -6 -n web". An adopted namespace has no name that
// ip knows: "nsenter --net=/proc/4242/ns/net ip".
func (s State) IPCommand(netns string, v6 bool) string {
	ip := "ip"
	if v6 {
		ip += " -6"
	}
	if netns == "" {
		return ip
	}
	if a, ok := s[ID{Kind: "netns", Name: netns}].(Adopter); ok && a.Adopts() != "" {
		return "nsenter --net=" + a.Adopts() + " " + ip
	}
	return ip + " -n " + netns
}
