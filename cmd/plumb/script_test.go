package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/examples"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/lab"
	"plumb.internal/plumb/internal/netns"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/schema"
)

// TestScripts runs the real binary by the scripts of testdata/script.
func TestScripts(t *testing.T) {
	needRoot(t)
	testscript.Run(t, params(t, testscript.Params{Dir: "../../testdata/script"}))
}

// TestExamples runs every example in a lab.
func TestExamples(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for _, name := range examples.Names() {
		script, err := examples.FS.ReadFile(name + "/test.txtar")
		if err != nil {
			t.Fatalf("example %s has no test: %v", name, err)
		}
		files, err := examples.Files(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range slices.Sorted(maps.Keys(files)) {
			if strings.HasSuffix(file, ".cue") {
				script = fmt.Appendf(script, "-- %s --\n%s", file, files[file])
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name+".txtar"), script, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	testscript.Run(t, params(t, testscript.Params{Dir: dir}))
}

// params are what both kinds of scripts know beyond testscript's own:
//
//	lab CMD...          runs a command in the lab's node
//	exits N CMD...      expects an exit code
//	leftovers           expects that the node is as a new one: nothing is left
//	isjson              expects that stdout is one JSON value
//	planids A B REGEXP  expects that two plans in JSON change the same objects, but for what the expression matches
//	chosen FILE OUT     writes the choices of a plan in JSON to a file, a line each: "FIELD VALUE"
//	[feature:NAME]      whether the kernel has a feature
func params(t *testing.T, p testscript.Params) testscript.Params {
	recorded, err := filepath.Abs("../../testdata/features")
	if err != nil {
		t.Fatal(err)
	}
	p.RequireExplicitExec = true
	p.UpdateScripts = os.Getenv("PLUMB_UPDATE") != ""
	p.Setup = func(e *testscript.Env) error {
		e.Setenv("FEATURES", recorded)
		e.Setenv("PLUMB_EVAL_TIME", os.Getenv("PLUMB_EVAL_TIME"))
		e.Defer(func() {
			if err := downAll(e.WorkDir); err != nil {
				t.Error(err)
			}
		})
		// asnobody has to reach the binary and the repository.
		for dir := e.WorkDir; dir != "/" && dir != os.TempDir(); dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o755); err != nil {
				return err
			}
		}
		return nil
	}
	p.Cmds = map[string]func(*testscript.TestScript, bool, []string){
		"lab": func(ts *testscript.TestScript, neg bool, args []string) {
			err := ts.Exec("plumb", append([]string{"lab", "exec", "--"}, args...)...)
			if (err != nil) != neg {
				ts.Fatalf("%s: %v", strings.Join(args, " "), err)
			}
		},
		"exits": func(ts *testscript.TestScript, _ bool, args []string) {
			want, err := strconv.Atoi(args[0])
			ts.Check(err)
			err = ts.Exec(args[1], args[2:]...)
			got := 0
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				got = exit.ExitCode()
			} else {
				ts.Check(err)
			}
			if got != want {
				ts.Fatalf("exit code %d, want %d", got, want)
			}
		},
		"isjson": func(ts *testscript.TestScript, _ bool, _ []string) {
			var v any
			if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &v); err != nil {
				ts.Fatalf("stdout is no JSON: %v", err)
			}
		},
		"planids": func(ts *testscript.TestScript, _ bool, args []string) {
			if diff := cmp.Diff(planIDs(ts, args[0], args[2]), planIDs(ts, args[1], args[2])); diff != "" {
				ts.Fatalf("the plans create different objects:\n%s", diff)
			}
		},
		"chosen":    func(ts *testscript.TestScript, _ bool, args []string) { chosen(ts, args[0], args[1]) },
		"leftovers": func(ts *testscript.TestScript, _ bool, _ []string) { leftovers(t.Context(), ts) },
	}
	var set *features.Set
	p.Condition = func(cond string) (bool, error) {
		name, ok := strings.CutPrefix(cond, "feature:")
		if !ok {
			return false, fmt.Errorf("unknown condition %q", cond)
		}
		if set == nil {
			if set, err = features.Probe(t.Context()); err != nil {
				return false, err
			}
		}
		if !set.Supports(features.Feature(name)) {
			t.Logf("%s: %s", name, set.Why(features.Feature(name)))
			return false, nil
		}
		return true, nil
	}
	return p
}

// downAll removes the labs of a script, whatever it named them.
func downAll(dir string) error {
	names, err := filepath.Glob(filepath.Join(lab.Root, "*"))
	if err != nil {
		return err
	}
	for _, path := range names {
		record, err := os.ReadFile(filepath.Join(path, "lab.json"))
		if err != nil || !strings.Contains(string(record), strconv.Quote(dir)) {
			continue
		}
		if _, err := lab.Down(filepath.Base(path)); err != nil {
			return err
		}
	}
	return nil
}

// planIDs lists the objects of a plan in JSON, without what the expression matches.
func planIDs(ts *testscript.TestScript, file, without string) []string {
	var p struct {
		Changes []struct {
			ID struct{ Kind, NetNS, Name string }
		}
	}
	if err := json.Unmarshal([]byte(ts.ReadFile(file)), &p); err != nil || len(p.Changes) == 0 {
		ts.Fatalf("%s: %v, %d changes", file, err, len(p.Changes))
	}
	var ids []string
	for _, c := range p.Changes {
		if id := regexp.MustCompile(without).ReplaceAllString(fmt.Sprint(c.ID), ""); id != "" {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// chosen writes what a plan in JSON chose, in the order of fields.
func chosen(ts *testscript.TestScript, file, out string) {
	var p struct{ Choices []resource.Choice }
	if err := json.Unmarshal([]byte(ts.ReadFile(file)), &p); err != nil || len(p.Choices) == 0 {
		ts.Fatalf("%s: %v, %d choices", file, err, len(p.Choices))
	}
	var lines []string
	for _, c := range p.Choices {
		lines = append(lines, c.Subject+" "+c.Chosen+"\n")
	}
	slices.Sort(lines)
	ts.Check(os.WriteFile(ts.MkAbs(out), []byte(strings.Join(lines, "")), 0o644))
}

// snapshot prints all of a node that plumb could have changed.
const snapshot = `
find /run /sys/fs/bpf | sort
ip -d -o link
ip -o addr
ip -4 route show table all
ip -6 route show table all
ip -4 rule
ip -6 rule
ip neigh show nud permanent
ip neigh show proxy
tc qdisc
tc filter show dev eth0 ingress
tc filter show dev eth0 egress
nft list ruleset
grep -rs . /proc/sys/net/ipv4 /proc/sys/net/ipv6 | sort
`

// volatile is what differs between two nodes that nobody touched. The kernel says only some time later that a new pair has
// a carrier; whether the device was set up is among the flags.
var volatile = regexp.MustCompile(`(?m)NO-CARRIER,|state (UP|DOWN)|([0-9a-f]{2}:){5}[0-9a-f]{2}|@if[0-9]+|link-netnsid \d+|(valid|preferred)_lft \S+|` +
	`^.*(fe80::|ff02::|fastopen_key|stable_secret|/neigh/|expires|portid ).*$`)

// leftovers compares the script's node with that of a lab in which nothing was ever applied.
func leftovers(ctx context.Context, ts *testscript.TestScript) {
	name, err := lab.DefaultName(ts.MkAbs("."))
	ts.Check(err)
	used, err := lab.Open(name)
	ts.Check(err)
	diff, err := left(ctx, used)
	ts.Check(err)
	if diff != "" {
		ts.Fatalf("something is left (-new node +this node):\n%s", diff)
	}
}

// left is what sets a lab's first node apart from a new one.
func left(ctx context.Context, used *lab.Lab) (diff string, err error) {
	nodes := slices.Clone(used.Nodes)
	fresh, err := lab.Up(ctx, "fresh-"+used.Name[max(0, len(used.Name)-40):], used.Dir, nodes)
	if err != nil {
		return "", err
	}
	defer func() {
		_, errDown := lab.Down(fresh.Name)
		err = errors.Join(err, errDown)
	}()
	var lines [2][]string
	for i, l := range []*lab.Lab{fresh, used} {
		out, err := l.Command(ctx, nodes[0].Name, "sh", "-c", snapshot).Output()
		if err != nil {
			return "", err
		}
		attached, err := programs(l, nodes[0].Name)
		if err != nil {
			return "", err
		}
		lines[i] = append(strings.Split(volatile.ReplaceAllString(string(out), "*"), "\n"), attached...)
		lines[i] = slices.DeleteFunc(lines[i], func(line string) bool { return line == "*" })
	}
	return cmp.Diff(lines[0], lines[1]), nil
}

// cgroupHooks are where programs for services could sit on the node's cgroup.
var cgroupHooks = []ebpf.AttachType{
	ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
	ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg, ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
	ebpf.AttachCgroupInetSockRelease,
}

// programs says how many programs sit on each hook of a node's cgroup and of its uplink.
func programs(l *lab.Lab, node string) (lines []string, err error) {
	mount, err := host.Mount("cgroup2")
	if err != nil {
		return nil, err
	}
	cgroup, err := os.Open(filepath.Join(mount, "plumb-lab-"+l.Name, node))
	if err != nil {
		return nil, err
	}
	defer cgroup.Close()
	query := func(target int, hook ebpf.AttachType) error {
		found, err := link.QueryPrograms(link.QueryOptions{Target: target, Attach: hook})
		if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EINVAL) {
			return nil // nobody sits on a hook that the kernel hasn't got
		} else if err != nil {
			return fmt.Errorf("query hook %s: %w", hook, err)
		}
		lines = append(lines, fmt.Sprintf("%s: %d programs", hook, len(found.Programs)))
		return nil
	}
	for _, hook := range cgroupHooks {
		if err := query(int(cgroup.Fd()), hook); err != nil {
			return nil, err
		}
	}
	n, err := l.Node(node)
	if err != nil {
		return nil, err
	}
	return lines, within(fmt.Sprintf("/proc/%d/ns/net", n.PID), func() error {
		uplink, err := net.InterfaceByName(n.Uplinks[0].Name)
		if err != nil {
			return err
		}
		return errors.Join(query(uplink.Index, ebpf.AttachTCXIngress), query(uplink.Index, ebpf.AttachTCXEgress))
	})
}

// within runs fn in the network namespace that path names.
func within(path string, fn func() error) error {
	ns, _, err := netns.Open(path)
	if err != nil {
		return err
	}
	defer ns.Close()
	return netns.Do(int(ns.Fd()), fn)
}

// handled runs fn with netlink of the network namespace at path.
func handled(path string, family int, fn func(h *netlink.Handle) error) error {
	return within(path, func() error {
		h, err := netlink.NewHandle(family)
		if err != nil {
			return err
		}
		defer h.Close()
		return fn(h)
	})
}

// TestExamplesHaveFiles keeps the embedded examples in step with the folders: each has all of its files.
func TestExamplesHaveFiles(t *testing.T) {
	for _, name := range examples.Names() {
		files, err := examples.Files(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"plumb.cue", "README.md"} {
			if _, ok := files[want]; !ok {
				t.Errorf("example %s has no %s", name, want)
			}
		}
		for vendored := range schema.Vendored() {
			if _, ok := files[vendored]; ok {
				t.Errorf("example %s has %s, which init would write twice", name, vendored)
			}
		}
	}
	if _, err := examples.Files("nowhere"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an unknown example: %v", err)
	}
}
