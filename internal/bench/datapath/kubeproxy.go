package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"

	"plumb.internal/plumb/internal/bench/lanes"
	"plumb.internal/plumb/internal/netns"
)

// kubeProxy loads a ruleset of the shape that kube-proxy makes in its nftables mode: a verdict map of services, a chain
// for each service that picks by chance, a chain for each backend that translates, and the checks of new connections in
// filter chains. It is written here from what such a node shows, for comparison; nothing of plumb uses the program nft.
func kubeProxy(ctx context.Context, b *bed, services int) error {
	rules := kubeProxyRules(b, services)
	return netns.Do(int(b.Root.Fd()), func() error {
		nft := exec.CommandContext(ctx, "nft", "-f", "-")
		nft.Stdin = bytes.NewReader(rules)
		if out, err := nft.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %w: %.500s", err, out)
		}
		return nil
	})
}

// masqueradeMark marks what is to be masqueraded.
const masqueradeMark = "0x4000"

func kubeProxyRules(b *bed, services int) []byte {
	var r bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&r, format+"\n", args...) }
	line(`table ip proxy {
	map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }
	map no-endpoints { type ipv4_addr . inet_proto . inet_service : verdict; }
	set cluster-ips { type ipv4_addr; }
	chain mark-for-masquerade { meta mark set meta mark or %[1]s; }
	chain masquerade-marked {
		meta mark and %[1]s == 0 return
		meta mark set meta mark xor %[1]s
		masquerade fully-random
	}
	chain check-endpoints { ip daddr . meta l4proto . th dport vmap @no-endpoints; }
	chain check-addresses { ip daddr @cluster-ips reject; }
	chain in { type filter hook input priority filter; ct state new jump check-endpoints; }
	chain forward {
		type filter hook forward priority filter
		ct state new jump check-endpoints
		ct state new jump check-addresses
	}
	chain out { type filter hook output priority filter; ct state new jump check-endpoints; }
	chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }
	chain nat-prerouting { type nat hook prerouting priority dstnat; jump services; }
	chain nat-output { type nat hook output priority -100; jump services; }
	chain nat-postrouting { type nat hook postrouting priority srcnat; jump masquerade-marked; }`, masqueradeMark)
	for i := range services {
		address := serviceAddr(i)
		backends := backendsOf(b, i)
		for k, to := range backends {
			line("	chain endpoint-%d-%d {", i, k)
			line("		ip saddr %s jump mark-for-masquerade", to)
			line("		meta l4proto tcp dnat to %s:%d\n	}", to, lanes.Port)
		}
		line("	chain service-%d {", i)
		// Pods of one segment answer each other directly, unless the node is the client.
		from := "ip saddr != " + podPrefix.String()
		if b.attach != "veth" && b.attach != "netkit" {
			from = ""
		}
		line("		ip daddr %s tcp dport %d %s jump mark-for-masquerade", address, lanes.Port, from)
		fmt.Fprintf(&r, "		numgen random mod %d vmap {", len(backends))
		for k := range backends {
			fmt.Fprintf(&r, " %d : goto endpoint-%d-%d,", k, i, k)
		}
		line(" }\n	}")
	}
	line("}")
	for i := 0; i < services; i += 1000 {
		fmt.Fprint(&r, "add element ip proxy service-ips {")
		for k := i; k < min(services, i+1000); k++ {
			fmt.Fprintf(&r, " %s . tcp . %d : goto service-%d,", serviceAddr(k), lanes.Port, k)
		}
		fmt.Fprint(&r, " }\nadd element ip proxy cluster-ips {")
		for k := i; k < min(services, i+1000); k++ {
			fmt.Fprintf(&r, " %s,", serviceAddr(k))
		}
		line(" }")
	}
	return r.Bytes()
}
