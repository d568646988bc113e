package guard

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/kindtest"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/addr"
	"plumb.internal/plumb/reconciler/resource/bpflink"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/reconciler/resource/netns"
	"plumb.internal/plumb/reconciler/resource/route"
	"plumb.internal/plumb/reconciler/resource/sysctl"
	"plumb.internal/plumb/schema"
)

// The operator is behind the node's default gateway, which is in a namespace that plumb makes, so that changes of plumb's can
// cut every part of the way there.
const (
	gateway4, here4, operator4 = "192.0.2.2", "192.0.2.1", "198.51.100.9"
	gateway6, here6            = "2001:db8::2", "2001:db8::1"
	dev                        = "pl-op"
)

var pair = link.For("op", "eth0")

// way is the way to the operator. drop leaves an object out, by its ID in text.
func way(drop ...string) resource.State {
	s := resource.State{}
	add := func(rs ...resource.Resource) {
		for _, r := range rs {
			gone := false
			for _, d := range drop {
				gone = gone || r.ID().String() == d
			}
			if !gone {
				s[r.ID()] = r
			}
		}
	}
	add(
		netns.NetNS{Name: "op"},
		link.Link{NetNS: "op", Name: "eth0", Type: link.Veth, MTU: 1500, MAC: "02:00:00:00:00:01",
			Peer: &link.Peer{Name: dev, MTU: 1500, MAC: "02:00:00:00:00:02"}},
		sysctl.Sysctl{NetNS: "op", Key: "net.ipv4.conf.eth0.arp_ignore", Value: "1", Link: pair},
		sysctl.Sysctl{Key: "net.ipv4.ip_forward", Value: "1"},
	)
	at := func(pod, device, a string) addr.Addr {
		return addr.Addr{NetNS: pod, Dev: device, Prefix: netip.MustParsePrefix(a), Link: pair}
	}
	to := func(pod, device, dst, via string) route.Route {
		r := route.Route{NetNS: pod, Dst: netip.MustParsePrefix(dst), Table: route.MainTable, Dev: device, Link: pair}
		if via != "" {
			r.Gateway, r.OnLink = netip.MustParseAddr(via), true
		}
		if r.Dst.Addr().Is6() {
			r.Metric = 1024
		}
		return r
	}
	add(
		// With its last IPv4 address a device loses its routes.
		at("", dev, here4+"/24"), at("", dev, "192.0.2.65/32"), at("", dev, here6+"/64"), at("op", "eth0", gateway4+"/24"), at("op", "eth0", gateway6+"/64"),
		at("op", "eth0", operator4+"/32"),
		to("", dev, "192.0.2.0/24", ""), to("", dev, "2001:db8::/64", ""), to("op", "eth0", "192.0.2.0/24", ""), to("op", "eth0", "2001:db8::/64", ""),
		to("", dev, "0.0.0.0/0", gateway4),
	)
	return s
}

// world is a change that cuts the way to the operator.
type world struct {
	from, to resource.State
	session  string // SSH_CONNECTION
	checks   []compiler.Check
	// sabotage is done behind plumb's back once everything is verified.
	sabotage func(ctx context.Context, h *host.Host) error
}

const session4 = operator4 + " 50022 " + here4 + " 22"

// worlds are all of them, by name.
func worlds(name string) world {
	switch name {
	case "default route":
		return world{from: way(), to: way("route default"), session: session4}
	case "address":
		return world{from: way(), to: way("addr " + here4 + "/24 dev " + dev), session: session4}
	case "namespace": // and with it everything
		return world{from: way(), to: resource.State{}, session: session4}
	case "disable_ipv6": // the session is one of IPv6, of which the device has no more
		w := world{from: way(), to: way("addr "+here6+"/64 dev "+dev, "route 2001:db8::/64"), session: gateway6 + " 50022 " + here6 + " 22"}
		off := sysctl.Sysctl{Key: "net.ipv6.conf." + dev + ".disable_ipv6", Value: "1", Link: pair}
		w.to[off.ID()] = off
		return w
	case "rp_filter": // what the operator sends comes in by another device than answers leave by
		w := world{from: way(), to: way(), session: session4}
		for _, s := range []resource.State{w.from, w.to} {
			second(s)
		}
		strict := sysctl.Sysctl{Key: "net.ipv4.conf.pl-op2.rp_filter", Value: "1", Link: pair2}
		w.to[strict.ID()] = strict
		return w
	case "check":
		w := world{from: way(), to: way(), session: session4, sabotage: deaf}
		other(w.to)
		w.checks = []compiler.Check{{Name: "hears", From: "node " + kindtest.Node, To: "address " + gateway6, Type: "icmp",
			Targets: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(gateway6), 0)}}}
		return w
	case "link down":
		w := world{from: way(), to: way(), session: session4, sabotage: down}
		other(w.to)
		return w
	case "harmless":
		w := world{from: way(), to: way(), session: session4}
		other(w.to)
		return w
	case "programs", "program":
		w := world{from: programs(1500), to: programs(1400), session: "10.0.0.10 50022 " + here4 + " 22"}
		if name == "program" {
			w.sabotage = dropAll
		}
		return w
	}
	panic("there is no world " + name)
}

var pair2 = link.For("op", "eth1")

// second adds a second pair, by which the operator sends, and which doesn't mind where that comes from.
func second(s resource.State) {
	for _, r := range []resource.Resource{
		link.Link{NetNS: "op", Name: "eth1", Type: link.Veth, MTU: 1500, MAC: "02:00:00:00:00:05",
			Peer: &link.Peer{Name: "pl-op2", MTU: 1500, MAC: "02:00:00:00:00:06"}},
		sysctl.Sysctl{Key: "net.ipv4.conf.all.rp_filter", Value: "0"},
		sysctl.Sysctl{Key: "net.ipv4.conf.pl-op2.rp_filter", Value: "0", Link: pair2},
		addr.Addr{NetNS: "op", Dev: "eth1", Prefix: netip.MustParsePrefix("192.0.2.3/32"), Link: pair2},
		addr.Addr{Dev: "pl-op2", Prefix: netip.MustParsePrefix("192.0.2.66/32"), Link: pair2},
		route.Route{NetNS: "op", Dst: netip.MustParsePrefix(here4 + "/32"), Table: route.MainTable, Dev: "eth1", Link: pair2},
	} {
		s[r.ID()] = r
	}
}

// other adds what doesn't matter to the operator.
func other(s resource.State) {
	for _, r := range []resource.Resource{
		netns.NetNS{Name: "new"},
		link.Link{NetNS: "new", Name: "eth0", Type: link.Veth, MTU: 1500, MAC: "02:00:00:00:00:03",
			Peer: &link.Peer{Name: "pl-new", MTU: 1500, MAC: "02:00:00:00:00:04"}},
	} {
		s[r.ID()] = r
	}
}

// programs is a node with the data path: the operator is in a pod, and services are there. The pod's MTU is a change.
func programs(mtu int) resource.State {
	set, err := features.ReadFile(os.Getenv(known))
	if err != nil {
		panic(err)
	}
	set.Host = &features.HostFacts{MemoryBytes: 1 << 30, CPUs: 2, Devices: map[string]features.Device{"eth0": {}}}
	c := &schema.Config{
		Nodes:    map[string]schema.Node{kindtest.Node: {Uplinks: []string{"eth0"}, PodCIDRs: []string{"10.0.0.0/24"}}},
		Pods:     map[string]schema.Pod{"op": {Attach: "veth", Addresses: []string{"10.0.0.10"}, MTU: mtu}},
		Services: map[string]schema.Service{"s": {Addresses: []string{"10.96.0.1"}, Ports: map[string]schema.Port{"p": {Port: 80}}, Backends: []schema.Backend{{Pod: "op"}}}},
		Routing:  schema.Routing{Services: "socket"},
		Tuning:   schema.Tuning{Maps: schema.Maps{Services: 2000 - mtu}}, // other maps, and so other programs
	}
	out, err := compiler.Compile(c, kindtest.Node, set)
	if err != nil {
		panic(err)
	}
	a := addr.Addr{Dev: dev, Prefix: netip.MustParsePrefix(here4 + "/32"), Link: pair}
	out.State[a.ID()] = a
	return out.State
}

// down sets the device down on which the operator is.
func down(_ context.Context, h *host.Host) error {
	ns, err := h.NS("")
	if err != nil {
		return err
	}
	l, err := ns.Link(dev)
	if err != nil {
		return err
	}
	return ns.Handle().LinkSetDown(l)
}

// deaf takes an address of IPv6 away.
func deaf(_ context.Context, h *host.Host) error {
	ns, err := h.NS("")
	if err != nil {
		return err
	}
	l, err := ns.Link(dev)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(here6 + "/64")
	if err != nil {
		return err
	}
	return ns.Handle().AddrDel(l, a)
}

// dropAll has what comes from the operator dropped, by a program in the place of plumb's.
func dropAll(ctx context.Context, h *host.Host) error {
	const name = "from_pod.000000000000"
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "from_pod", Type: ebpf.SchedCLS, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}}) // TC_ACT_SHOT
	if err != nil {
		return err
	}
	defer p.Close()
	if err := p.Pin(h.BPFPath(host.BPFProgramFolder, name)); err != nil {
		return err
	}
	h.Forget()
	owned, _, err := bpflink.Ops{}.Observe(ctx, h, nil)
	if err != nil {
		return err
	}
	for _, a := range owned {
		if a.Dev == dev && a.Hook == bpflink.Ingress {
			to := a
			to.Program.Name = name
			return bpflink.Ops{}.Update(ctx, h, a, to)
		}
	}
	return fmt.Errorf("no program of plumb's is on %s", dev)
}

// Exit codes of the apply that a test starts.
const (
	exitConfirmed = 0
	exitFailed    = 1
	exitReverted  = 5
)

// TestMain is also the apply and the guardian that tests start.
func TestMain(m *testing.M) {
	quicken()
	opened = func(h *host.Host) {
		killAt(h, "PLUMB_TEST_GUARDIAN_AT", die)
		killAt(h, "PLUMB_TEST_GUARDIAN_STOPS_AT", func() { _ = unix.Kill(os.Getpid(), unix.SIGSTOP) })
	}
	switch {
	case RunChild():
		return
	case os.Getenv("PLUMB_TEST_SESSIONS") != "":
		for _, l := range sessions() {
			fmt.Println(l.Name)
		}
		return
	case os.Getenv("PLUMB_TEST_APPLY") != "":
		code, err := applyChild(context.Background())
		if err != nil {
			fmt.Fprintln(os.Stderr, "apply:", err)
		}
		os.Exit(code)
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "plumb-guard-")
	if err == nil {
		err = os.Setenv(known, filepath.Join(dir, "features.json"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	return m.Run()
}

// quicken has the apply, the guardian and the test wait less for what is stuck, where a test says so.
func quicken() {
	if within, err := time.ParseDuration(os.Getenv(quick)); err == nil {
		patience, momentary, overdue, toRevert = within, within, within, 10*within
	}
}

const quick = "PLUMB_TEST_QUICK"

// killAt does something right before one write, which an environment variable names by its number or a part of its words.
func killAt(h *host.Host, env string, do func()) {
	at := os.Getenv(env)
	if at == "" {
		return
	}
	number, err := strconv.Atoi(at)
	done := false
	h.OnWrite = func(n int, what string) {
		if hit := err == nil && n == number || err != nil && strings.Contains(what, at); hit && !done {
			done = true
			do()
		}
	}
}

// hit does to this apply or to its guardian what a test wants.
func hit(h *host.Host, what string) {
	guardian := func(signal unix.Signal) {
		if _, s, err := Look(h); err == nil && s != nil && s.Guardian.PID > 0 {
			_ = unix.Kill(s.Guardian.PID, signal)
		}
	}
	switch what {
	case "":
		die()
	case "guardian":
		guardian(unix.SIGKILL)
	case "both":
		guardian(unix.SIGKILL)
		die()
	case "stop guardian":
		guardian(unix.SIGSTOP)
	case "stop":
		_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
	case "hang":
		select {}
	case "hangup":
		_ = unix.Kill(os.Getpid(), unix.SIGHUP)
		select {}
	default:
		panic("nobody can " + what)
	}
}

// die ends this process as nothing else does.
func die() {
	_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	select {}
}

// applyChild applies as the command does.
func applyChild(ctx context.Context) (code int, err error) {
	w := worlds(os.Getenv("PLUMB_TEST_APPLY"))
	h, err := host.Open(host.Options{Node: kindtest.Node, RunDir: os.Getenv("PLUMB_TEST_RUN"), NetNSDir: os.Getenv("PLUMB_TEST_NETNS"),
		BPFFS: os.Getenv("PLUMB_TEST_BPFFS"), Cgroup: os.Getenv("PLUMB_TEST_CGROUP"), RootNS: rootFile})
	if err != nil {
		return exitFailed, err
	}
	defer h.Close()
	unlock, err := reconciler.Lock(h)
	if err != nil {
		return exitFailed, err
	}
	within, err := time.ParseDuration(os.Getenv("PLUMB_TEST_WITHIN"))
	if err != nil {
		return exitFailed, err
	}
	killAt(h, "PLUMB_TEST_AT", func() { hit(h, os.Getenv("PLUMB_TEST_KILL")) })
	o, err := reconciler.Observe(ctx, h, w.to)
	if err != nil {
		return exitFailed, err
	}
	p, err := reconciler.Diff(w.to, o)
	if err != nil {
		return exitFailed, err
	}
	lines, err := Lifelines(ctx, h)
	if err != nil {
		return exitFailed, err
	}
	if os.Getenv("PLUMB_TEST_GATEWAYS") == "none" {
		lines = slices.DeleteFunc(lines, func(l Lifeline) bool { return l.Gateway })
	}
	if len(lines) == 0 {
		return exitFailed, fmt.Errorf("the operator can't be reached before anything is changed")
	}
	g, until, err := Start(ctx, h, &Pending{Within: within, Kept: reconciler.Kept(p), StateDir: os.Getenv("PLUMB_TEST_STATE"), Lifelines: lines, Checks: w.checks})
	if err != nil {
		return exitFailed, err
	}
	err = reconciler.Apply(until, h, p, reconciler.ApplyOptions{Parallel: 1, Keep: true})
	if err == nil {
		err = reconciler.VerifyKept(until, h, w.to)
	}
	if err == nil && w.sabotage != nil {
		err = w.sabotage(ctx, h)
	}
	if err == nil {
		_, err = g.Verified()
	}
	why := ""
	if err != nil {
		why = err.Error()
	}
	h.Wrote("the last")
	unlock()
	outcome, err := g.Wait(ctx, why)
	fmt.Fprintf(os.Stderr, "%d writes\n%s\n", h.Writes(), outcome.Why)
	switch {
	case err != nil:
		return exitFailed, err
	case outcome.Confirmed:
		return exitConfirmed, nil
	}
	return exitReverted, nil
}
