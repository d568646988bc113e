package main

import (
	"bufio"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

// Every service has three backends outside the node, all different, but the last: its are pods that answer.
const (
	backendsEach = 3
	clientPod    = "client"
	port         = 80
	targetPort   = 8080
)

func address(base netip.Addr, i int) netip.Addr {
	a := base.As4()
	return netip.AddrFrom4([4]byte{a[0], a[1] + byte(i>>16), byte(i >> 8), byte(i)})
}

func serviceAddress(i int) netip.Addr { return address(netip.MustParseAddr("10.96.0.0"), i+1) }

func backendAddress(i, k int) netip.Addr {
	return address(netip.MustParseAddr("172.16.0.0"), backendsEach*i+k+1)
}

func podAddress(i int) netip.Addr { return address(netip.MustParseAddr("10.0.0.0"), i+2) }

func serverPod(k int) string { return fmt.Sprintf("server-%d", k) }

// writeRepository writes one file of literal entries. Service changed has another second backend, unless it is -1.
func writeRepository(dir string, services, changed int) error {
	f, err := os.Create(filepath.Join(dir, "plumb.cue"))
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	fmt.Fprint(w, "package plumb\n\nnodes: bench: podCIDRs: [\"10.0.0.0/24\"]\n\npods: {\n")
	fmt.Fprintf(w, "\t%q: {attach: \"veth\", addresses: [%q]}\n", clientPod, podAddress(backendsEach))
	for k := range backendsEach {
		fmt.Fprintf(w, "\t%q: {attach: \"veth\", addresses: [%q]}\n", serverPod(k), podAddress(k))
	}
	fmt.Fprint(w, "}\n\nservices: {\n")
	for i := range services {
		fmt.Fprintf(w, "\t\"svc-%d\": {\n\t\taddresses: [%q]\n\t\tports: http: {port: %d, targetPort: %d}\n\t\tbackends: [\n",
			i, serviceAddress(i), port, targetPort)
		for k := range backendsEach {
			switch {
			case i == services-1:
				fmt.Fprintf(w, "\t\t\t{pod: %q},\n", serverPod(k))
			case i == changed && k == 1:
				fmt.Fprintf(w, "\t\t\t{address: %q},\n", backendAddress(services, 0))
			default:
				fmt.Fprintf(w, "\t\t\t{address: %q},\n", backendAddress(i, k))
			}
		}
		fmt.Fprint(w, "\t\t]\n\t}\n")
	}
	fmt.Fprint(w, "}\n")
	if err := w.Flush(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// writeRuleset writes the anchor: one map from services to one backend each, the least that nftables can do for them.
func writeRuleset(path string, services int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	fmt.Fprint(w, "table ip bench {\n\tmap services {\n\t\ttype ipv4_addr . inet_service : ipv4_addr . inet_service\n\t\telements = {\n")
	for i := range services {
		fmt.Fprintf(w, "\t\t\t%s . %d : %s . %d,\n", serviceAddress(i), port, backendAddress(i, 0), targetPort)
	}
	fmt.Fprint(w, "\t\t}\n\t}\n\tchain prerouting {\n\t\ttype nat hook prerouting priority dstnat\n",
		"\t\tdnat ip to ip daddr . tcp dport map @services\n\t}\n}\n")
	if err := w.Flush(); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// writeElement writes the change of one element from backend a to backend b, in one transaction.
func writeElement(path string, service, a, b int) error {
	key := fmt.Sprintf("%s . %d", serviceAddress(service), port)
	text := fmt.Sprintf("delete element ip bench services { %s : %s . %d }\nadd element ip bench services { %s : %s . %d }\n",
		key, backendAddress(service, a), targetPort, key, backendAddress(service, b), targetPort)
	return os.WriteFile(path, []byte(text), 0o644)
}
