package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/features"
)

// strangers puts what is somebody else's on the node, on the same hooks, in the same tables, and among the same names.
func (s *soak) strangers() {
	s.Helper()
	mustRun(s.T, s.in("sh", "-ec", `
		ip netns add container
		ip netns add theirs
		ip link add theirs type veth peer name theirs2
		ip addr add 198.51.100.1/24 dev theirs
		ip link set theirs up
		ip route add 203.0.113.0/24 dev theirs
		ip route add 203.0.113.9/32 dev theirs table 112 proto static
		ip rule add pref 4000 from 198.51.100.0/24 lookup 4000
		ip neigh add 198.51.100.9 dev theirs lladdr 02:00:00:00:00:09 nud permanent
		ip neigh add proxy 198.51.100.10 dev eth0
		tc qdisc add dev eth0 clsact
		sysctl -qw net.ipv4.conf.theirs.rp_filter=2
		nft 'table inet theirs { chain c { type nat hook output priority -100; tcp dport 9 redirect to 10; }; set s { type ipv4_addr; }; }; add element inet theirs s { 192.0.2.7 }'
	`))
	idle := func(kind ebpf.ProgramType, attach ebpf.AttachType, verdict int32) *ebpf.Program {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: kind, AttachType: attach, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()}})
		s.must(err)
		s.Cleanup(func() { p.Close() })
		return p
	}
	s.idle = idle(ebpf.SchedCLS, ebpf.AttachNone, -1)
	s.filter("eth0")
	mount, err := host.Mount("cgroup2")
	s.must(err)
	own, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", s.lab.Nodes[0].PID))
	s.must(err)
	_, path, _ := strings.Cut(strings.TrimSpace(string(own)), "0::")
	s.cgroup, err = os.Open(filepath.Join(mount, path))
	s.must(err)
	s.Cleanup(func() { s.cgroup.Close() })
	s.must(link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(s.cgroup.Fd()), Attach: ebpf.AttachCGroupInet4Connect,
		Program: idle(ebpf.CGroupSockAddr, ebpf.AttachCGroupInet4Connect, 1), Flags: unix.BPF_F_ALLOW_MULTI}))
}

// filter lets somebody's filter see all that comes by a device.
func (s *soak) filter(dev string) {
	s.Helper()
	ns, l, err := s.device("", dev)
	s.must(err)
	s.must(ns.Handle().FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: 7},
		Fd:          s.idle.FD(), Name: "theirs", DirectAction: true,
	}))
}

// guests are more of the kind on a device of plumb's, of a pod that is spared.
func (s *soak) guests() {
	s.Helper()
	mustRun(s.T, s.in("sh", "-ec", `
		ip route add 203.0.113.7 dev pl-spared1
		ip neigh add 203.0.113.8 dev pl-spared1 lladdr 02:00:00:00:00:08 nud permanent
		tc qdisc show dev pl-spared1 | grep -q clsact || tc qdisc add dev pl-spared1 clsact
	`))
	s.filter("pl-spared1")
	set, err := features.Probe(s.Context())
	s.must(err)
	if !set.Supports(features.TCX) {
		return
	}
	ns, l, err := s.device("", "pl-spared1")
	s.must(err)
	s.must(ns.Do(func() (err error) {
		s.tcx, err = link.AttachTCX(link.TCXOptions{Interface: l.Attrs().Index, Program: s.idle, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
		return err
	}))
	s.Cleanup(func() { s.tcx.Close() })
}

// foreign prints what is somebody else's.
func (s *soak) foreign() string {
	s.Helper()
	connect, err := host.QueryBPF(int(s.cgroup.Fd()), ebpf.AttachCGroupInet4Connect, false)
	s.must(err)
	said := fmt.Sprintf("cgroup connect4: program %d\n", connect.Programs[0])
	if s.tcx != nil {
		info, err := s.tcx.Info()
		s.must(err)
		said += fmt.Sprintf("tcx: %+v\n", *info.TCX())
	}
	return said + mustRun(s.T, s.in("sh", "-c", `
		ip netns list | grep -o -e container -e theirs | sort
		ip -o addr show dev theirs scope global; ip route show table all dev theirs proto boot; ip route show table all dev theirs proto static
		ip rule show pref 4000; ip neigh show dev theirs nud permanent; ip neigh show proxy dev eth0 | grep 198
		ip -o link show dev theirs | cut -d' ' -f2-9
		ip route show 203.0.113.7; ip neigh show 203.0.113.8 dev pl-spared1
		tc filter show dev eth0 ingress prio 7; tc filter show dev pl-spared1 ingress prio 7
		sysctl net.ipv4.conf.theirs.rp_filter
		nft list table inet theirs`))
}
