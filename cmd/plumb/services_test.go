package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"plumb.internal/plumb/internal/lab"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/schema"
)

// servicesRepo has two parameters: how most pods are attached, and how one is that isn't like them.
const servicesRepo = `package plumb

nodes: "edge-1": {uplinks: ["eth0"], podCIDRs: ["10.0.0.0/24", "fd00:10::/64"]}
podDefaults: attach: %q
pods: {
	client: addresses: ["10.0.0.20", "fd00:10::20"]
	"web-1": {addresses: ["10.0.0.11", "fd00:10::11"], labels: app: "web"}
	"web-2": {addresses: ["10.0.0.12", "fd00:10::12"], labels: app: "web"}
	other: {addresses: ["10.0.0.30", "fd00:10::30"], attach: %q}
}

// Every service has the number of its addresses.
#n: {own: 1, other: 2, self: 3, out: 4, none: 5, turns: 6, loyal: 7, table: 8, drain: 9}
services: [name=string]: {
	addresses: ["10.96.0.\(#n[name])", "fd00:96::\(#n[name])"]
	ports: {
		http: {port: 80, targetPort: 8080}
		dns: {port: 53, targetPort: 8080, protocol: "UDP"}
	}
}
services: {
	own: selector: app: "web"
	other: backends: [{pod: "other"}]
	self: backends: [{pod: "client"}]
	out: backends: [{address: "192.168.31.1"}, {address: "fd00:31::1"}]
	none: backends: []
	turns: {algorithm: "round-robin", backends: [{pod: "web-1", weight: 3}, {pod: "web-2"}]}
	loyal: {affinity: timeout: "1h", selector: app: "web"}
	drain: backends: [{pod: "web-1"}, {pod: "web-2", state: "terminating"}, {pod: "other", state: "maintenance"}, {pod: "client", weight: 0}]
}
`

// servicesTable is one more, which nftables can't carry.
const servicesTable = `services: table: {algorithm: "maglev", selector: app: "web"}
`

// numbers are those of servicesRepo.
var numbers = map[string]int{"own": 1, "other": 2, "self": 3, "out": 4, "none": 5, "turns": 6, "loyal": 7, "table": 8, "drain": 9}

// servicesWays are the ways to carry services, in the order in which the test changes from one to the next.
var servicesWays = []struct {
	name  string
	shown string // by svc ls
	needs []features.Feature
	// ends are ways whose established connections don't live on here: those that are translated per packet, by the other.
	ends string
}{
	{"packet", "packet", []features.Feature{features.GlobalData, features.Clsact}, ""},
	{"socket", "socket", []features.Feature{features.CgroupConnect4, features.CgroupRecvmsg6}, ""},
	{"auto", "socket+packet", []features.Feature{features.CgroupConnect4, features.CgroupRecvmsg6, features.GlobalData, features.Clsact}, ""},
	{"nftables", "nftables", []features.Feature{features.NFTNat, features.NFTServices}, "packet"},
}

// TestServices asks services in every attachment, carried every way, and changes the way while they are used.
func TestServices(t *testing.T) {
	needRoot(t)
	set, err := features.Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if testing.Short() && !set.Supports(features.LinkNetkit) {
		t.Skip("minutes on an emulated machine; the newest kernel does it for the others")
	}
	for _, attach := range []string{"veth", "bridge", "macvlan", "ipvlan-l2", "ipvlan-l3", "netkit"} {
		t.Run(attach, func(t *testing.T) {
			if testing.Short() && (attach == "bridge" || attach == "macvlan") {
				t.Skip("minutes on an emulated machine; every kernel that runs the whole of the tests has it")
			}
			for _, f := range []features.Feature{features.Feature("link." + attach), features.Cgroup2} {
				if !set.Supports(f) {
					t.Skip(set.Why(f))
				}
			}
			other := "veth"
			if attach == other {
				other = "bridge"
			}
			n := &servicesNode{stayed: map[string]*stayer{}, lab: labOf(t, fmt.Sprintf(servicesRepo, attach, other))}
			for _, way := range servicesWays {
				t.Run(way.name, func(t *testing.T) {
					for _, f := range way.needs {
						if !set.Supports(f) {
							t.Skip(set.Why(f))
						}
					}
					if strings.HasPrefix(attach, "ipvlan") && way.name == "nftables" {
						n.refuse(t)
						return
					}
					n.carry(t, way.name, way.shown, way.ends)
				})
			}
			if n.stop == nil {
				t.Skip("no way was tried")
			}
			n.stop()
			mustRun(t, inLab(t, n.lab, "destroy", "--yes"))
			if diff, err := left(t.Context(), n.lab); err != nil || diff != "" {
				t.Errorf("something is left (-new node +this node): %v\n%s", err, diff)
			}
		})
	}
}

// servicesNode is the one node of a lab with servicesRepo.
type servicesNode struct {
	lab  *lab.Lab
	stop func() // the servers; nil before they run
	// stayed are clients of earlier ways, by way.
	stayed map[string]*stayer
}

// carry makes the node carry its services by a way, and asks all of them.
func (n *servicesNode) carry(t *testing.T, way, shown, ends string) {
	text := fmt.Sprintf("package plumb\nrouting: services: %q\n", way)
	if way != "nftables" {
		text += servicesTable
	}
	n.write(t, text)
	var allow []string
	if n.stayed[ends] != nil {
		out, err := inLab(t, n.lab, "apply", "--yes").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "established connections end") || !strings.Contains(string(out), "need --allow-disruption") {
			t.Errorf("apply ends connections: %v\n%s", err, out)
		}
		n.stay(t)
		allow = []string{"--allow-disruption"}
	}
	said := n.apply(t, allow...)
	if alone := way == "packet"; alone != strings.Contains(said, "own processes don't reach services") {
		t.Errorf("apply says %s", said)
	}
	if n.stop == nil {
		n.stop = n.serve(t)
	}
	if s := n.stayed[ends]; s != nil {
		s.end(t)
		delete(n.stayed, ends)
	}
	n.settled(t)
	n.stay(t)
	if out := mustRun(t, inLab(t, n.lab, "svc", "ls")); strings.Count(out, " "+shown+" ") < 4*(len(numbers)-1) {
		t.Errorf("svc ls says\n%s", out)
	}
	n.pod(t, "client", n.steps(way, "client")...)
	// A pod of another attachment, to services of both.
	n.pod(t, "other", n.steps(way, "other")...)
	if way != "packet" {
		n.run(t, append([]string{"netprobe", "meet"}, n.steps(way, "node")...)...)
	}
	n.stayed[way] = n.hold(t, "tcp 10.96.0.1:80", "udp 10.96.0.1:53", "tcp [fd00:96::1]:80", "udp [fd00:96::1]:53")
	n.changes(t, way)
}

// steps are for netprobe meet, from a pod or the node.
func (n *servicesNode) steps(way, from string) (steps []string) {
	add := func(service, how, want string) {
		port := 53
		if strings.HasSuffix(how, "tcp") {
			port = 80
		}
		prefixes := []string{"10.96.0.%d:%d", "[fd00:96::%d]:%d", "mapped-"}
		for _, at := range prefixes {
			how, source := how, ""
			if from == "client" && want != "refused" {
				source = "10.0.0.20"
				if at[0] == '[' {
					source = "fd00:10::20"
				}
			}
			if at == "mapped-" {
				times, rest, many := strings.Cut(how, "*")
				if !many {
					how = at + how
				} else {
					how = times + "*" + at + rest
				}
				at = prefixes[0]
			}
			// Packets that turn round have to come back the same way.
			if way == "nftables" || service == "self" {
				source = ""
			}
			steps = append(steps, fmt.Sprintf("%s "+at+" %s %s", how, numbers[service], port, want, source))
		}
	}
	add("none", "tcp", "refused")
	if way == "nftables" && from == "node" {
		add("none", "udp", "barred") // what netfilter answers to a socket of its own machine
	} else {
		add("none", "udp", "refused") // at first: the kernel answers not much more than one client a second
	}
	for service, want := range map[string]string{"own": "web-1|web-2", "other": "other", "self": "client", "out": "router"} {
		for _, how := range []string{"tcp", "udp", "sendto", "big", "bigsendto"} {
			add(service, how, want)
		}
	}
	add("turns", "8*tcp", "web-1:6+web-2:2")
	add("loyal", "6*tcp", "=web-1|web-2")
	add("loyal", "6*sendto", "=web-1|web-2")
	add("drain", "12*tcp", "web-1")
	add("own", "20*tcp", "web-1+web-2")
	if way != "nftables" {
		add("table", "20*tcp", "web-1+web-2")
		add("table", "20*udp", "web-1+web-2")
	}
	return steps
}

// refuse expects that the node doesn't come to be carried by nftables, with not one thing changed.
func (n *servicesNode) refuse(t *testing.T) {
	if n.stop == nil {
		t.Skip("no other way was tried")
	}
	n.apply(t)
	before, err := os.ReadFile(filepath.Join(n.lab.Dir, "way.cue"))
	if err != nil {
		t.Fatal(err)
	}
	n.write(t, "package plumb\nrouting: services: \"nftables\"\n")
	out, err := inLab(t, n.lab, "apply", "--yes", "--allow-delete").CombinedOutput()
	for _, said := range []string{"plumb.cue:4:22: podDefaults.attach: pod client has attach", "which passes nftables by", "use another attachment or way"} {
		if err == nil || !strings.Contains(string(out), said) {
			t.Errorf("apply says, and not %q: %v\n%s", said, err, out)
		}
	}
	n.stay(t)
	n.write(t, string(before))
	n.settled(t)
}

// servicesChanges are of services that are in use: what stands in servicesRepo, what stands there then, and what differs.
var servicesChanges = []struct {
	old, now string
	steps    []string
	brief    bool // tried by -short too: on an emulated machine an apply takes seconds
}{
	{
		`own: selector: app: "web"`, `own: {selector: app: "web", algorithm: "round-robin"}`,
		[]string{"8*tcp 10.96.0.1:80 web-1:4+web-2:4", "8*udp [fd00:96::1]:53 web-1:4+web-2:4"}, false,
	},
	{
		`own: selector: app: "web"`, `own: {selector: app: "web", affinity: timeout: "10s"}`,
		[]string{"8*tcp 10.96.0.1:80 =web-1|web-2"}, false,
	},
	{
		`own: selector: app: "web"`, `own: backends: [{pod: "web-1", state: "terminating"}, {pod: "web-2"}]`,
		[]string{"8*tcp 10.96.0.1:80 web-2", "8*udp [fd00:96::1]:53 web-2"}, true,
	},
	{
		`own: selector: app: "web"`, `own: {selector: app: "web", algorithm: "maglev", tableSize: 2039}`,
		[]string{"20*tcp 10.96.0.1:80 web-1+web-2"}, false,
	},
	{
		`none: backends: []`, `none: backends: [{pod: "web-2"}]`,
		[]string{"tcp 10.96.0.5:80 web-2", "udp [fd00:96::5]:53 web-2"}, false,
	},
}

// changes alters services that are in use, and asks for what differs.
func (n *servicesNode) changes(t *testing.T, way string) {
	file := filepath.Join(n.lab.Dir, "plumb.cue")
	base, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range servicesChanges {
		if way == "nftables" && strings.Contains(c.now, "maglev") || testing.Short() && !c.brief {
			continue
		}
		text := strings.Replace(string(base), c.old, c.now, 1)
		if text == string(base) {
			t.Fatalf("there is no %s to change", c.old)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		n.apply(t)
		n.stay(t)
		n.pod(t, "client", c.steps...)
	}
	// The next apply has this to change back too.
	if err := os.WriteFile(file, base, 0o644); err != nil {
		t.Fatal(err)
	}
}

// stay expects that clients of earlier ways are still answered.
func (n *servicesNode) stay(t *testing.T) {
	t.Helper()
	for _, s := range n.stayed {
		s.check(t)
	}
}

func (n *servicesNode) write(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(n.lab.Dir, "way.cue"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (n *servicesNode) apply(t *testing.T, allow ...string) string {
	t.Helper()
	return mustRun(t, inLab(t, n.lab, append([]string{"apply", "--yes"}, allow...)...))
}

// settled expects that an apply has nothing to do, and status nothing to complain of.
func (n *servicesNode) settled(t *testing.T) {
	t.Helper()
	if out := n.apply(t); !strings.Contains(out, "nothing was written") {
		t.Errorf("another apply says %s", out)
	}
	mustRun(t, inLab(t, n.lab, "status"))
}

// run runs a command in the node.
func (n *servicesNode) run(t *testing.T, argv ...string) {
	t.Helper()
	out, err := n.lab.Command(t.Context(), "", argv...).CombinedOutput()
	complain(t, "on the node", out, err)
}

// pod runs netprobe meet in a pod.
func (n *servicesNode) pod(t *testing.T, pod string, steps ...string) {
	t.Helper()
	out, err := inLab(t, n.lab, append([]string{"exec", pod, "--", "netprobe", "meet"}, steps...)...).CombinedOutput()
	complain(t, "in pod "+pod, out, err)
}

// complain says which steps of netprobe meet failed.
func complain(t *testing.T, where string, out []byte, err error) {
	t.Helper()
	if err != nil {
		_, failed, _ := strings.Cut(string(out), "netprobe: ")
		t.Errorf("%s: %v\n%s", where, err, cmp.Or(failed, string(out)))
	}
}

// serve answers in every pod, and outside the node. The sockets are this process's own.
func (n *servicesNode) serve(t *testing.T) func() {
	t.Helper()
	var stops []func()
	start := func(name, path string) {
		err := within(path, func() error {
			stop, err := answer(name, "8080")
			if err == nil {
				stops = append(stops, stop)
			}
			return err
		})
		if err != nil {
			t.Fatalf("serve in %s: %v", name, err)
		}
	}
	for _, pod := range []string{"client", "web-1", "web-2", "other"} {
		start(pod, fmt.Sprintf("/proc/%d/root/run/netns/%s", n.lab.Nodes[0].PID, pod))
	}
	start("router", fmt.Sprintf("/proc/%d/ns/net", n.lab.Underlay))
	return func() {
		for _, s := range n.stayed {
			s.end(t)
		}
		for _, stop := range stops {
			stop()
		}
	}
}

// stayer is a netprobe stay that runs.
type stayer struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Scanner
	began string
}

// hold starts clients in the pod client that stay connected.
func (n *servicesNode) hold(t *testing.T, steps ...string) *stayer {
	t.Helper()
	cmd := n.lab.Command(context.Background(), "", append([]string{"plumb", "exec", "client", "--", "netprobe", "stay"}, steps...)...)
	cmd.Dir, cmd.Stderr = n.lab.Dir, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &stayer{cmd, in, bufio.NewScanner(out), t.Name()}
	if !s.out.Scan() || s.out.Text() != "ready" {
		t.Fatalf("clients that stay: %q, %v", s.out.Text(), s.out.Err())
	}
	return s
}

// check asks the servers again.
func (s *stayer) check(t *testing.T) {
	t.Helper()
	if _, err := io.WriteString(s.in, "\n"); err != nil {
		t.Fatal(err)
	}
	if !s.out.Scan() || s.out.Text() != "same" {
		t.Errorf("clients since %s: %s %v", s.began, s.out.Text(), s.out.Err())
	}
}

func (s *stayer) end(t *testing.T) {
	t.Helper()
	s.in.Close()
	if err := s.cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// labOf writes a repository of one node, edge-1, and brings up a lab for it in which nothing is applied yet.
func labOf(t *testing.T, text string) *lab.Lab {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "plumb.cue"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	nodes, err := lab.NodesOf(&schema.Config{Nodes: map[string]schema.Node{"edge-1": {
		Uplinks: []string{"eth0"}, PodCIDRs: []string{"10.0.0.0/24", "fd00:10::/64"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	name := strings.ToLower(strings.Map(func(r rune) rune {
		if r == '/' || r == '_' {
			return '-'
		}
		return r
	}, fmt.Sprintf("%s-%d", t.Name(), os.Getpid())))
	t.Cleanup(func() {
		if _, err := lab.Down(name); err != nil {
			t.Error(err)
		}
	})
	l, err := lab.Up(t.Context(), name, dir, nodes)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
