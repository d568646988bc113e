package compiler

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"plumb.internal/plumb/schema"
)

// TestVetAgrees gives repositories, laid out as plumb init does it, to stock cue and to us: the verdicts are the same. The bad ones
// are those of testdata/bad whose mistake is in the files' text; only plumb knows its limits and its one package.
func TestVetAgrees(t *testing.T) {
	tool, err := exec.Command("go", "tool", "-n", "cue").Output()
	if err != nil {
		t.Fatalf("go tool -n cue: %v", err)
	}
	repositories := map[string]map[string]string{
		"good-literal":    {"mine.cue": "package plumb\n\npods: web: {attach: \"veth\", addresses: [\"10.0.0.1\"]}\n"},
		"good-template":   {"mine.cue": "package plumb\n\npods: [string]: mtu: 1500\npods: web: {}\n_x: 1\n#y: 2\n"},
		"good-import":     {"mine.cue": "package plumb\n\nimport \"plumb.local/x\"\n\npods: web: x.p\n", "x/x.cue": "package x\n\np: mtu: 1500\n"},
		"good-service":    {"mine.cue": "package plumb\n\nservices: web: {addresses: [\"10.96.0.1\"], ports: http: port: 80, backends: [for p in [\"a\", \"b\"] {pod: p}]}\n"},
		"good-everything": {"mine.cue": everything},
	}
	names, err := filepath.Glob("testdata/bad/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		base := filepath.Base(name)
		a, err := txtar.ParseFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(a.Comment), "> ") || !oneOf(base, "wrong-enum", "typo", "unknown", "type-", "range", "bad-", "missing-h", "missing-p", "missing-c", "conflict", "undefined", "incomplete", "cycle", "template", "division", "many-mistakes") || base == "bad-module.txtar" {
			continue
		}
		files := map[string]string{}
		for _, f := range a.Files {
			if f.Name != "error" {
				files[f.Name] = string(f.Data)
			}
		}
		repositories[base] = files
	}
	if len(repositories) < 45 {
		t.Fatalf("only %d repositories", len(repositories))
	}
	for name, files := range repositories {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for name, b := range schema.Vendored() {
				files[name] = string(b)
			}
			dir := write(t, files)
			cmd := exec.Command(strings.TrimSpace(string(tool)), "vet", "-c", ".")
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "CUE_REGISTRY=none", "CUE_CACHE_DIR="+t.TempDir())
			out, vetErr := cmd.CombinedOutput()
			s, err := Load(t.Context(), dir, nil)
			s.Close()
			if (err == nil) != (vetErr == nil) {
				t.Errorf("cue vet: %v %s\nplumb: %v", vetErr, out, err)
			}
			if strings.HasPrefix(name, "good-") && err != nil {
				t.Error(err)
			}
		})
	}
}

func oneOf(s string, prefixes ...string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// everything has each field of the contract.
const everything = `package plumb

nodes: "edge-1": {
	uplinks: ["eth0"]
	addresses: ["192.168.31.100"]
	podCIDRs: ["10.0.0.0/24", "fd00:10::/64"]
	labels: zone: "hall-a"
	routing: hostRouting: "legacy"
	tuning: mtu: 9000
	podDefaults: mtu: 1400
}
pods: {
	web: {
		node:   "edge-1"
		attach: "veth"
		addresses: ["10.0.0.10"]
		labels: app: "web"
		mtu: 1500
		sysctls: "net.ipv4.tcp_keepalive_time": "60"
		bandwidth: {egress: "100M", ingress: "200M"}
		uplink: "eth0"
		dns: {servers: ["192.0.2.1"], search: ["example.org"]}
		congestionControl: "bbr"
	}
	db: {netns: "/proc/4242/ns/net", interface: "eth1"}
}
services: web: {
	addresses: ["10.96.0.100", "fd00:96::64"]
	ports: http: {port: 80, targetPort: 8080, protocol: "TCP", nodePort: 30080}
	backends: [{pod: "web"}, {address: "10.0.1.9", port: 9090, weight: 2, state: "active"}]
	selector: app: "web"
	externalAddresses: ["192.0.2.80"]
	algorithm: "maglev"
	tableSize: 16381
	affinity: timeout: "3h"
	sourceRanges: {allow: ["192.0.2.0/24"], deny: ["192.0.2.66/32"]}
	forwarding:            "dsr"
	externalTrafficPolicy: "local"
	internalTrafficPolicy: "cluster"
	health: {type: "tcp", interval: "2s", timeout: "1s", failures: 3, successes: 2}
}
pods: web: hostPorts: [{hostPort: 8080, containerPort: 8080, protocol: "TCP"}]
routing: {
	mode:             "native"
	directNodeRoutes: true
	hostRouting:      "auto"
	services:         "auto"
	masquerade:       "auto"
	masqueradeExclude: ["172.16.0.0/12"]
	nodePortRange: "30000-32767"
}
podDefaults: {attach: "auto", mtu: 1500}
tuning: {
	mtu:               9000
	bigTCP:            "auto"
	bandwidthManager:  "auto"
	conntrackBypass:   "auto"
	xdp:               "auto"
	congestionControl: "bbr"
	maps: {ratio: 0.0025, services: 65536}
	host: {cpuGovernor: "performance", irqbalance: "off", irqAffinity: {eth0: "spread"}, profile: "network-latency"}
}
checks: "web answers": {from: {pod: "client"}, to: {service: "web", port: "http"}, expect: "reachable", within: "500ms"}
`
