package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/lab"
)

// hostRoutingRepo is a node whose pods talk to a host beyond its uplink. The service's backend is that host.
const hostRoutingRepo = `package plumb
nodes: "edge-1": {uplinks: ["eth0"], podCIDRs: ["10.0.0.0/24", "fd00:10::/64"]}
pods: {
	client: {attach: "veth", addresses: ["10.0.0.10", "fd00:10::10"]}
	web: {attach: "bridge", addresses: ["10.0.0.20", "fd00:10::20"]}
}
services: far: {
	addresses: ["10.96.0.1", "fd00:96::1"]
	ports: {http: {port: 80, targetPort: 9000}, echo: {port: 53, targetPort: 9000, protocol: "UDP"}}
	backends: [{address: %q}, {address: %q}]
}
`

// beyond is a lab whose underlay is the host beyond the uplink.
type beyond struct {
	*testing.T
	lab      *lab.Lab
	far      [2]netip.Addr // IPv4, IPv6
	underlay string
}

func newBeyond(t *testing.T) *beyond {
	t.Helper()
	needRoot(t)
	b := &beyond{T: t, lab: labOf(t, "package plumb\n")}
	b.underlay = fmt.Sprintf("/proc/%d/ns/net", b.lab.Underlay)
	err := handled(b.node(), unix.NETLINK_ROUTE, func(h *netlink.Handle) error {
		for i, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
			routes, err := h.RouteList(nil, family)
			if err != nil {
				return err
			}
			n := slices.IndexFunc(routes, func(r netlink.Route) bool { return r.Gw != nil })
			if n < 0 {
				return fmt.Errorf("no default route among %v", routes)
			}
			b.far[i], _ = netip.AddrFromSlice(routes[n].Gw)
			b.far[i] = b.far[i].Unmap()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	b.write("plumb.cue", fmt.Sprintf(hostRoutingRepo, b.far[0], b.far[1]))
	b.serve(b.underlay, "far", "9000")
	return b
}

func (b *beyond) node() string { return fmt.Sprintf("/proc/%d/ns/net", b.lab.Nodes[0].PID) }

func (b *beyond) write(name, text string) {
	b.Helper()
	if err := os.WriteFile(filepath.Join(b.lab.Dir, name), []byte(text), 0o644); err != nil {
		b.Fatal(err)
	}
}

func (b *beyond) serve(ns, name, port string) {
	b.Helper()
	err := within(ns, func() error {
		stop, err := answer(name, port)
		if err == nil {
			b.Cleanup(stop)
		}
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
}

// run is a command in the node that has to do.
func (b *beyond) run(argv ...string) string {
	b.Helper()
	cmd := b.lab.Command(b.Context(), "", argv...)
	cmd.Dir = b.lab.Dir
	return mustRun(b.T, cmd)
}

// route sets the way that packets of pods take.
func (b *beyond) route(way string) {
	b.write("routing.cue", fmt.Sprintf("package plumb\nrouting: hostRouting: %q\n", way))
}

// stream starts clients that ask without a pause. What it returns ends them and looks at what they had.
func (b *beyond) stream(cmd *exec.Cmd, start func(*exec.Cmd) error) (end func()) {
	b.Helper()
	var said bytes.Buffer
	cmd.Stderr = &said
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := start(cmd); err != nil {
		b.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		in.Close()
		_ = cmd.Wait()
		b.Fatalf("the streams begin with %q: %s", lines.Text(), said.String())
	}
	return func() {
		b.Helper()
		in.Close()
		for lines.Scan() {
			b.Log(lines.Text())
		}
		if err := cmd.Wait(); err != nil {
			b.Errorf("streams: %v\n%s", err, said.String())
		}
	}
}

// streams go out from the pods, straight and by the service, and come in to them. It says how many there are. Where the uplink
// has its programs by clsact there are none of UDP: to make or remove that, the kernel stops the device for a moment, and what
// is under way is lost.
func (b *beyond) streams(datagrams bool) (n int, end func()) {
	b.Helper()
	b.serve(fmt.Sprintf("/proc/%d/root/run/netns/web", b.lab.Nodes[0].PID), "web", "8080")
	out := []string{"plumb", "exec", "client", "--", "netprobe", "stream",
		"tcp 10.96.0.1:80", "tcp [fd00:96::1]:80"}
	in, hows := []string{"stream"}, []string{"tcp"}
	if datagrams {
		out, hows = append(out, "udp 10.96.0.1:53", "udp [fd00:96::1]:53"), append(hows, "udp")
	}
	for _, how := range hows {
		for _, a := range b.far {
			out = append(out, how+" "+netip.AddrPortFrom(a, 9000).String())
		}
		in = append(in, how+" 10.0.0.20:8080", how+" [fd00:10::20]:8080")
	}
	leaving := b.lab.Command(context.WithoutCancel(b.Context()), "", out...)
	leaving.Dir = b.lab.Dir
	endLeaving := b.stream(leaving, (*exec.Cmd).Start)
	coming := exec.CommandContext(context.WithoutCancel(b.Context()), "netprobe", in...)
	endComing := b.stream(coming, func(cmd *exec.Cmd) error { return within(b.underlay, cmd.Start) })
	return 6 * len(hows), func() {
		b.Helper()
		endLeaving()
		endComing()
	}
}

var countedPackets = regexp.MustCompile(`counter packets (\d+)`)

// watch counts anew what passes the node's stack.
func (b *beyond) watch() {
	b.Helper()
	b.write("watch.nft", `table inet watch
delete table inet watch
table inet watch {
	chain forward {
		type filter hook forward priority filter
		ct state new,established,related,invalid,untracked counter
		ct state invalid drop
	}
}
`)
	b.run("nft", "-f", "watch.nft")
}

// seen is what the node's stack has seen since watch: packets in the hook, and connections of pods in the table.
func (b *beyond) seen() (packets, tracked int) {
	b.Helper()
	out := b.run("nft", "list", "chain", "inet", "watch", "forward")
	m := countedPackets.FindStringSubmatch(out)
	if m == nil {
		b.Fatalf("no counter in %s", out)
	}
	packets, _ = strconv.Atoi(m[1])
	err := handled(b.node(), unix.NETLINK_NETFILTER, func(h *netlink.Handle) error {
		for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
			flows, err := h.ConntrackTableList(netlink.ConntrackTable, family)
			if err != nil {
				return err
			}
			for _, f := range flows {
				if isPods(f.Forward.SrcIP) || isPods(f.Forward.DstIP) {
					tracked++
				}
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	return packets, tracked
}

func isPods(ip []byte) bool {
	a, _ := netip.AddrFromSlice(ip)
	a = a.Unmap()
	return netip.MustParsePrefix("10.0.0.0/24").Contains(a) || netip.MustParsePrefix("fd00:10::/64").Contains(a)
}

// forget empties the connection table.
func (b *beyond) forget() {
	b.Helper()
	err := handled(b.node(), unix.NETLINK_NETFILTER, func(h *netlink.Handle) error { return h.ConntrackTableFlush(netlink.ConntrackTable) })
	if err != nil {
		b.Fatal(err)
	}
}

var straightCount = regexp.MustCompile(`(?m)^(routed|forwarded)\s+(\d+)`)

// straight is how many packets went past the stack, out of the node and to its pods.
func (b *beyond) straight() (routed, forwarded int) {
	b.Helper()
	for _, m := range straightCount.FindAllStringSubmatch(b.run("plumb", "status", "--verbose"), -1) {
		n, _ := strconv.Atoi(m[2])
		if m[1] == "routed" {
			routed = n
		} else {
			forwarded = n
		}
	}
	return routed, forwarded
}

// until waits for something that the streams bring about.
func (b *beyond) until(what string, done func() bool) {
	b.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); !done(); <-tick.C {
		if time.Now().After(end) {
			b.Fatalf("%s never came to be", what)
		}
	}
}

// TestHostRouting shows what the node's firewall and connection table see of pods' packets, and that connections live on
// when the way changes, whatever becomes of plumb meanwhile.
func TestHostRouting(t *testing.T) {
	ways := []string{"packet", "auto"}
	if testing.Short() {
		ways = ways[:1]
	}
	for _, services := range ways {
		t.Run(services, func(t *testing.T) { hostRouting(t, services) })
	}
}

func hostRouting(t *testing.T, services string) {
	b := newBeyond(t)
	b.write("services.cue", fmt.Sprintf("package plumb\nrouting: services: %q\n", services))
	out := b.run("plumb", "apply", "--yes")
	if !strings.Contains(out, "routing.hostRouting: auto -> bpf: ") {
		if strings.Contains(out, "not bpf: ") {
			t.Skip("this kernel has no host routing by eBPF")
		}
		t.Fatalf("auto isn't bpf:\n%s", out)
	}
	// Rules of others keep their packets, unless the files say otherwise.
	b.watch()
	said := b.run("plumb", "apply", "--yes")
	if !regexp.MustCompile(`routing\.hostRouting: auto -> legacy: .*others' nftables chain forward of table inet watch;`).MatchString(said) {
		t.Errorf("auto passes by a firewall:\n%s", said)
	}
	b.route("bpf")
	said = b.run("plumb", "apply", "--yes")
	if !strings.Contains(said, "don't pass nftables chain forward of table inet watch;") {
		t.Errorf("nobody is told that a firewall is passed by:\n%s", said)
	}
	streams, end := b.streams(strings.Contains(out, "by tcx"))
	bpf := func() {
		t.Helper()
		b.forget()
		b.watch()
		routed, forwarded := b.straight()
		b.until("a thousand packets each way past the stack", func() bool {
			r, f := b.straight()
			return r > routed+1000 && f > forwarded+1000
		})
		out := b.run("plumb", "status", "--verbose")
		for _, line := range []string{`(?m)^host routing +bpf: `, `(?m)^connection table .*, 0 of them of pods$`} {
			if !regexp.MustCompile(line).MatchString(out) {
				t.Errorf("status says no %q:\n%s", line, out)
			}
		}
		if packets, tracked := b.seen(); packets != 0 || tracked != 0 {
			t.Errorf("bpf: %d packets in the forward hook, %d connections in the table", packets, tracked)
		}
	}
	if packets, tracked := b.seen(); packets != 0 || tracked != 0 {
		t.Errorf("when connections begin: %d packets in the forward hook, %d connections in the table", packets, tracked)
	}
	bpf()
	rounds, kills := 2, []time.Duration{20, 40, 60, 80, 100, 130, 160, 200}
	if testing.Short() {
		rounds, kills = 1, []time.Duration{100, 1000}
	}
	for range rounds {
		b.route("legacy")
		b.run("plumb", "apply", "--yes")
		routed, forwarded := b.straight()
		b.watch()
		b.until("a thousand packets through the stack", func() bool { packets, _ := b.seen(); return packets > 1000 })
		if _, tracked := b.seen(); tracked != streams {
			t.Errorf("legacy: %d of %d connections in the table", tracked, streams)
		}
		if r, f := b.straight(); r != routed || f != forwarded {
			t.Errorf("legacy: %d packets left and %d came past the stack", r-routed, f-forwarded)
		}
		b.route("bpf")
		b.run("plumb", "apply", "--yes")
		bpf()
	}
	for i, after := range kills {
		b.route([]string{"legacy", "bpf"}[i%2])
		cmd := inLab(t, b.lab, "apply", "--yes")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(after * time.Millisecond)
		_ = cmd.Process.Kill()
		err := cmd.Wait()
		left := inLab(t, b.lab, "plan", "--detailed-exitcode").Run()
		var exit *exec.ExitError
		t.Logf("killed after %v: %v, and something is left to do: %v", after*time.Millisecond, err, errors.As(left, &exit) && exit.ExitCode() == 2)
		if i%3 == 2 {
			b.run("plumb", "apply", "--yes")
		}
	}
	b.route("bpf")
	b.run("plumb", "apply", "--yes")
	b.run("plumb", "plan", "--detailed-exitcode")
	bpf()
	end()
	b.run("nft", "delete", "table", "inet", "watch")
	b.run("plumb", "destroy", "--yes")
}
