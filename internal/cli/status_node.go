package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/addr"
	"plumb.internal/plumb/reconciler/resource/qdisc"
)

// nodeStatus is what status --verbose says besides: all that there is to know of one node. It is read from the kernel.
type nodeStatus struct {
	Version     string         `json:"version"`
	Routing     routingStatus  `json:"routing"`
	Devices     []deviceStatus `json:"devices"`
	Services    map[string]int `json:"services_by_type"`
	Sizing      sizingStatus   `json:"map_sizing"`
	CIDRs       []cidrStatus   `json:"pod_cidrs"`
	Limits      []limitStatus  `json:"bandwidth"`
	Flows       flowStatus     `json:"flows"`
	Connections host.Tracked   `json:"connection_table"`
	Clock       string         `json:"clock_source"`
}

// routingStatus is the way of pods' packets through the node, and the proof of it.
type routingStatus struct {
	Host       string `json:"host_routing"` // bpf, straight, legacy
	Masquerade string `json:"masquerade"`   // bpf, nftables, off
	Leaving    string `json:"masqueraded"`  // who, by which uplinks, but to whom
	// Chains are others' in the forward hook, which see what goes through the stack.
	Chains []string `json:"forward_chains"`
}

// deviceStatus is one uplink.
type deviceStatus struct {
	Name      string   `json:"name"`
	Routes    bool     `json:"routes"` // what is for elsewhere leaves by it
	Up        bool     `json:"up"`
	Driver    string   `json:"driver"`
	MTU       int      `json:"mtu"`
	Addresses []string `json:"addresses"`
	Qdisc     string   `json:"qdisc"`
	XDP       string   `json:"xdp"` // native, generic, offloaded, off
	Program   uint32   `json:"xdp_program"`
	CanXDP    string   `json:"xdp_by_driver"` // what the driver has, with its reason
	GSO       uint32   `json:"gso_max_size"`
	GSO4      uint32   `json:"gso_ipv4_max_size"`
}

// sizingStatus is what the sizes of maps follow.
type sizingStatus struct {
	Ratio    float64 `json:"ratio"`
	Memory   int64   `json:"memory_bytes"` // 0 where it isn't known
	Services int     `json:"services"`
}

// cidrStatus is how much of a range is given away, and to whom.
type cidrStatus struct {
	CIDR string  `json:"cidr"`
	Room uint64  `json:"room"` // for pods
	Used []taken `json:"used"`
}

// taken is an address that is on a device of a pod.
type taken struct {
	Address string `json:"address"`
	Pod     string `json:"pod"`
}

// limitStatus is a queueing discipline of plumb's.
type limitStatus struct {
	Pod   string `json:"pod"` // "" for the node's own devices
	Dev   string `json:"device"`
	Qdisc string `json:"qdisc"`
}

// flowStatus is what the data path translates.
type flowStatus struct {
	Now    int `json:"now"`
	Most   int `json:"most"`
	Active int `json:"active_last_second"`
	// Packets are those of a second by what became of them, as the counters are. A packet to which more than one thing
	// happens, as when it is translated and routed, is in each of them: there is no sum of them to make.
	Packets map[string]float64 `json:"packets_per_second"`
}

// rateTime is how long packets are counted for a rate.
const rateTime = 500 * time.Millisecond

// nodeStatus looks at the rest of the node.
func (s *session) nodeStatus(ctx context.Context, owned resource.State, data *dataStatus) (*nodeStatus, error) {
	n := &nodeStatus{
		Version:  Version(),
		Routing:  datapathOf(owned).routing(),
		Services: map[string]int{"ClusterIP": 0, "NodePort": 0, "LoadBalancer": 0, "externalIPs": 0, "HostPort": 0},
		Sizing:   sizingStatus{Ratio: s.compiled.Maps.Ratio, Services: s.compiled.Maps.Services},
		CIDRs:    []cidrStatus{}, Limits: []limitStatus{},
	}
	if s.set.Host != nil {
		n.Sizing.Memory = s.set.Host.MemoryBytes
	}
	n.Routing.Chains = append([]string{}, s.host.ForwardChains()...)
	if data != nil {
		for _, a := range data.Algorithms {
			n.Services["ClusterIP"] += a.Services
		}
	}
	node := s.config.Nodes[s.node]
	var prefixes []netip.Prefix
	for _, text := range node.PodCIDRs {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("read podCIDR: %w", err)
		}
		prefixes = append(prefixes, p)
		n.CIDRs = append(n.CIDRs, usedOf(p, owned))
	}
	for _, id := range owned.IDs() {
		if q, ok := owned[id].(qdisc.Qdisc); ok && q.Handle == "" {
			n.Limits = append(n.Limits, limitStatus{q.NetNS, q.Dev, q.Describe()})
		}
	}
	var err error
	if n.Devices, err = s.devices(node.Uplinks); err != nil {
		return nil, err
	}
	if n.Connections, err = s.host.Tracked(prefixes); err != nil {
		return nil, err
	}
	if n.Flows, err = readFlows(ctx, s.host); err != nil {
		return nil, err
	}
	clock, err := os.ReadFile("/sys/devices/system/clocksource/clocksource0/current_clocksource")
	if n.Clock = strings.TrimSpace(string(clock)); err != nil {
		n.Clock = "unknown" // sysfs may be somebody else's; programs count by the kernel's monotonic clock in any case
	}
	return n, nil
}

// routing is what the attached programs do with packets of pods.
func (d datapath) routing() routingStatus {
	r := routingStatus{Host: "legacy", Masquerade: "off"}
	switch {
	case d.on["host_routing"] && d.straight:
		r.Host = "bpf"
	case d.on["redirect"]:
		r.Host = "straight"
	}
	switch {
	case d.on["masquerade"]:
		r.Masquerade, r.Leaving = "bpf", d.excluded
	case d.masquerade != nil:
		r.Masquerade, r.Leaving = "nftables", d.masquerade.Masquerade.String()
	}
	return r
}

// usedOf lists the addresses of a range that pods have.
func usedOf(p netip.Prefix, owned resource.State) cidrStatus {
	c := cidrStatus{CIDR: p.String(), Used: []taken{}}
	reserved := uint64(2) // the gateway and the first one; of IPv4 also the last one
	if p.Addr().Is4() {
		reserved = 3
	}
	if bits := p.Addr().BitLen() - p.Bits(); bits >= 64 {
		c.Room = math.MaxUint64
	} else if size := uint64(1) << bits; size > reserved {
		c.Room = size - reserved
	}
	for _, r := range owned {
		if a, ok := r.(addr.Addr); ok && a.NetNS != "" && p.Contains(a.Prefix.Addr()) {
			c.Used = append(c.Used, taken{a.Prefix.Addr().String(), a.NetNS})
		}
	}
	slices.SortFunc(c.Used, func(a, b taken) int {
		return cmp.Or(netip.MustParseAddr(a.Address).Compare(netip.MustParseAddr(b.Address)), cmp.Compare(a.Pod, b.Pod))
	})
	return c
}

// devices looks at the uplinks, of which the first one routes.
func (s *session) devices(uplinks []string) ([]deviceStatus, error) {
	root, err := s.host.NS("")
	if err != nil {
		return nil, err
	}
	addrs, err := root.Addrs()
	if err != nil {
		return nil, err
	}
	all := []deviceStatus{}
	for i, name := range uplinks {
		d := deviceStatus{Name: name, Routes: i == 0, Addresses: []string{}, XDP: "off"}
		l, err := root.Link(name)
		if errors.Is(err, fs.ErrNotExist) {
			all = append(all, d)
			continue
		} else if err != nil {
			return nil, err
		}
		d.Up, d.MTU, d.Qdisc, d.GSO, d.GSO4 = l.Up(), l.MTU, l.Qdisc, l.GSOMaxSize, l.GSOIPv4MaxSize
		for _, a := range addrs {
			if a.LinkIndex == l.Index && !a.IP.IsLinkLocalUnicast() {
				d.Addresses = append(d.Addresses, a.IPNet.String())
			}
		}
		if s.set.Host != nil {
			facts := s.set.Host.Devices[name]
			d.Driver = facts.Driver
			d.CanXDP = facts.XDP
			if facts.Reason != "" {
				d.CanXDP += " (" + facts.Reason + ")"
			}
		}
		if d.XDP, d.Program, err = xdpOf(root, name); err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

// xdpOf is how a device runs an XDP program, whosever it is.
func xdpOf(ns *host.NS, dev string) (mode string, program uint32, err error) {
	l, err := ns.Handle().LinkByName(dev)
	if err != nil {
		return "", 0, fmt.Errorf("find device %s: %w", dev, err)
	}
	x := l.Attrs().Xdp
	if x == nil || !x.Attached {
		return "off", 0, nil
	}
	modes := map[uint32]string{nl.XDP_ATTACHED_DRV: "native", nl.XDP_ATTACHED_SKB: "generic", nl.XDP_ATTACHED_HW: "offloaded"}
	return cmp.Or(modes[x.AttachMode], "several"), x.ProgId, nil
}

// readFlows counts what is translated now, and for a moment what the programs see. Each flow has two entries.
func readFlows(ctx context.Context, h *host.Host) (flowStatus, error) {
	s := flowStatus{Packets: map[string]float64{}}
	began := time.Now()
	before, err := readCounters(h)
	if err != nil || len(before) == 0 {
		return s, err
	}
	now, err := bpf.SinceBoot()
	if err != nil {
		return s, err
	}
	entries, active := 0, 0
	err = eachPinned(h, "flows", func(m host.BPFMap, most int) error {
		s.Most += most / 2
		return bpf.Each(m.Map, func(_ bpf.FlowKey, f bpf.Flow) {
			entries++
			if int64(now/time.Second)-int64(f.Seen) <= 1 {
				active++
			}
		})
	})
	if err != nil {
		return s, err
	}
	s.Now, s.Active = (entries+1)/2, (active+1)/2
	timer := time.NewTimer(rateTime - time.Since(began))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return s, ctx.Err()
	case <-timer.C:
	}
	after, err := readCounters(h)
	if err != nil {
		return s, err
	}
	s.Packets = rates(before, after, time.Since(began))
	return s, nil
}

// rates are packets a second by what became of them.
func rates(before, after []counted, took time.Duration) map[string]float64 {
	all := map[string]float64{}
	for i, c := range after {
		// Programs that were replaced meanwhile count from 0 again.
		if i < len(before) && c.Packets >= before[i].Packets {
			all[c.Reason] = math.Round(float64(c.Packets-before[i].Packets) / took.Seconds())
		}
	}
	return all
}
