package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"plumb.internal/plumb/internal/lab"
)

const upgradeRepo = `package plumb
nodes: "edge-1": {uplinks: ["eth0"], podCIDRs: ["10.0.0.0/24", "fd00:10::/64"]}
podDefaults: attach: "veth"
pods: {
	client: addresses: ["10.0.0.20", "fd00:10::20"]
	"web-1": {addresses: ["10.0.0.11", "fd00:10::11"], labels: app: "web"}
	"web-2": {addresses: ["10.0.0.12", "fd00:10::12"], labels: app: "web"}
	other: {addresses: ["10.0.0.30", "fd00:10::30"], attach: "bridge"}
}
services: [string]: {
	ports: {
		http: {port: 80, targetPort: 8080}
		dns: {port: 53, targetPort: 8080, protocol: "UDP"}
	}
	selector: app: "web"
}
services: {
	any: {addresses: ["10.96.0.1", "fd00:96::1"], algorithm: "random"}
	loyal: {addresses: ["10.96.0.2", "fd00:96::2"], algorithm: "random", affinity: timeout: "1h"}
	table: {addresses: ["10.96.0.3", "fd00:96::3"], algorithm: "maglev"}
}
`

// upgradeStreams are what must not be felt by anybody.
var upgradeStreams = []string{
	"tcp 10.96.0.1:80", "tcp [fd00:96::1]:80", "tcp 10.96.0.2:80", "tcp 10.96.0.3:80",
	"udp 10.96.0.1:53", "udp [fd00:96::1]:53", "udp 10.96.0.2:53", "udp 10.96.0.3:53",
	"sendto 10.96.0.1:53", "sendto [fd00:96::1]:53",
}

// upgradeEdits make another version of plumb: most entries of its maps have one field more, in front of the others, so that
// every program is another one too.
var upgradeEdits = []struct{ file, old, new string }{
	{"bpf/maps.h", "struct frontend {\n", "struct frontend {\n\t__u64 extra;\n"},
	{"bpf/layout.go", "type Frontend struct {\n", "type Frontend struct {\n\tExtra uint64\n"},
	{"bpf/maps.h", "struct backend {\n", "struct backend {\n\t__u64 extra;\n"},
	{"bpf/layout.go", "type Backend struct {\n", "type Backend struct {\n\tExtra uint64\n"},
	{"bpf/maps.h", "struct affinity {\n", "struct affinity {\n\t__u64 extra;\n"},
	{"bpf/layout.go", "type Affinity struct{ ", "type Affinity struct{ Extra, "},
	{"bpf/maps.h", "struct endpoint {\n", "struct endpoint {\n\t__u32 extra;\n"},
	{"bpf/layout.go", "type Endpoint struct {\n", "type Endpoint struct {\n\tExtra uint32\n"},
	{"bpf/maps.h", "struct peer {\n", "struct peer {\n\t__u64 extra;\n"},
	{"bpf/layout.go", "type Peer struct {\n", "type Peer struct {\n\tExtra uint64\n"},
	{"bpf/maps.h", "struct flow {\n", "struct flow {\n\t__u64 extra;\n"},
	{"bpf/layout.go", "type Flow struct {\n", "type Flow struct {\n\tExtra uint64\n"},
	{"bpf/load.go", "Layout{1, ebpf.Hash,", "Layout{2, ebpf.Hash,"},
	{"bpf/load.go", "Layout{1, ebpf.LRUHash,", "Layout{2, ebpf.LRUHash,"},
}

// build makes plumb of this source with other programs and another layout of the maps.
func build(t *testing.T) (binary string) {
	t.Helper()
	for _, tool := range []string{"go", "clang-16", "llvm-strip-16"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%v: run .ci/deps generate", err)
			}
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	top, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(top, path)
		switch {
		case err != nil:
			return err
		case d.IsDir() && (rel == ".git" || rel == ".cache" || rel == "bin"):
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(dir, rel), 0o755)
		case !d.Type().IsRegular():
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, e := range upgradeEdits {
			if e.file != rel {
				continue
			}
			if bytes.Count(b, []byte(e.old)) != 1 {
				return fmt.Errorf("%s has not one %q", rel, e.old)
			}
			b = bytes.Replace(b, []byte(e.old), []byte(e.new), 1)
		}
		return os.WriteFile(filepath.Join(dir, rel), b, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	binary = filepath.Join(dir, "plumb-other")
	for _, args := range [][]string{{"generate", "./bpf"}, {"build", "-trimpath", "-o", binary, "./cmd/plumb"}} {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = dir
		mustRun(t, cmd)
	}
	return binary
}

// upgraded is a node whose daemon is exchanged while its services are in use.
type upgraded struct {
	*testing.T
	lab    *lab.Lab
	daemon *exec.Cmd
	log    bytes.Buffer
}

// TestUpgrade stops the daemon, starts it, and goes to a version with other programs and maps and back, also by a kill in the
// middle. Clients of services feel nothing of it.
func TestUpgrade(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a compiler")
	}
	needRoot(t)
	other := build(t)
	for _, way := range []string{"packet", "socket", "auto"} {
		t.Run(way, func(t *testing.T) {
			u := &upgraded{T: t, lab: labOf(t, upgradeRepo+fmt.Sprintf("routing: services: %q\n", way))}
			t.Cleanup(func() {
				u.stop(syscall.SIGKILL)
				if t.Failed() {
					t.Logf("the daemons' log:\n%s", u.log.String())
				}
			})
			u.start("plumb")
			u.runs("plumb", 1)
			stop := u.streams()
			for _, next := range []struct {
				what, binary string
				end          syscall.Signal
				version      int
			}{
				{"a restart", "plumb", syscall.SIGTERM, 1},
				{"a crash", "plumb", syscall.SIGKILL, 1},
				{"an upgrade", other, syscall.SIGTERM, 2},
				{"a restart", other, syscall.SIGTERM, 2},
				{"a downgrade", "plumb", syscall.SIGTERM, 1},
				{"an upgrade after a crash", other, syscall.SIGKILL, 2},
				{"a downgrade after a crash", "plumb", syscall.SIGKILL, 1},
			} {
				t.Log(next.what)
				u.stop(next.end)
				u.start(next.binary)
				u.runs(next.binary, next.version)
			}
			// Killed anywhere on the way, there and back.
			for i, after := range []time.Duration{0, 30, 60, 80, 110} {
				u.stop(syscall.SIGTERM)
				u.start(other)
				u.killedAfter(after * time.Millisecond)
				if i%2 == 0 {
					u.start(other)
					u.runs(other, 2)
					u.stop(syscall.SIGTERM)
				}
				u.start("plumb")
				u.runs("plumb", 1)
			}
			stop()
		})
	}
}

func (u *upgraded) start(binary string) {
	u.Helper()
	u.daemon = u.lab.Command(context.WithoutCancel(u.Context()), "", binary, "run", "--interval", "1h")
	u.daemon.Dir, u.daemon.Stderr = u.lab.Dir, &u.log
	if err := u.daemon.Start(); err != nil {
		u.Fatal(err)
	}
}

func (u *upgraded) stop(sig syscall.Signal) {
	if u.daemon != nil {
		_ = u.daemon.Process.Signal(sig)
		_ = u.daemon.Wait()
		u.daemon = nil
	}
}

func (u *upgraded) pins(folder string) string {
	u.Helper()
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/sys/fs/bpf/plumb/edge-1/%s", u.lab.Nodes[0].PID, folder))
	if err != nil {
		u.Fatal(err)
	}
	var all []string
	for _, n := range names {
		all = append(all, n.Name())
	}
	return strings.Join(all, " ")
}

var flowsPin = regexp.MustCompile(`\bflows:v(\d+):`)

// runs waits until nothing is left to do for a version of plumb, and looks that nothing of the other one is left.
func (u *upgraded) runs(binary string, version int) {
	u.Helper()
	for end := time.Now().Add(time.Minute); ; {
		out, err := u.plan(binary)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			u.Fatalf("not converged: %s", out)
		}
	}
	maps := u.pins("maps")
	if left := fmt.Sprintf(":v%d:", 3-version); version == 1 && strings.Contains(maps, left) || version == 2 && strings.Contains(maps, "frontends"+left) {
		u.Errorf("maps of another version are left: %s", maps)
	}
	if m := flowsPin.FindStringSubmatch(maps); strings.Contains(maps, "flows") && (m == nil || m[1] != fmt.Sprint(version)) {
		u.Errorf("maps: %s", maps)
	}
}

func (u *upgraded) plan(binary string) (string, error) {
	cmd := u.lab.Command(u.Context(), "", binary, "plan", "--detailed-exitcode")
	cmd.Dir = u.lab.Dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// killedAfter kills the daemon some time after it has pinned the first map of another version.
func (u *upgraded) killedAfter(some time.Duration) {
	u.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(20 * time.Second); !strings.Contains(u.pins("maps"), ":v2:"); <-tick.C {
		if time.Now().After(end) {
			u.Fatal("the other version makes no maps")
		}
	}
	<-time.After(some)
	u.stop(syscall.SIGKILL)
	u.Logf("killed after %v with maps %d, programs %d", some, len(strings.Fields(u.pins("maps"))), len(strings.Fields(u.pins("progs"))))
}

// streams starts clients in a pod, and servers behind the services. What it returns ends the clients, and looks at what they
// had.
func (u *upgraded) streams() (end func()) {
	u.Helper()
	for _, pod := range []string{"web-1", "web-2"} {
		err := within(fmt.Sprintf("/proc/%d/root/run/netns/%s", u.lab.Nodes[0].PID, pod), func() error {
			stop, err := answer(pod, "8080")
			if err == nil {
				u.Cleanup(stop)
			}
			return err
		})
		if err != nil {
			u.Fatal(err)
		}
	}
	cmd := u.lab.Command(context.WithoutCancel(u.Context()), "", append([]string{"plumb", "exec", "client", "--", "netprobe", "stream"}, upgradeStreams...)...)
	cmd.Dir = u.lab.Dir
	var said bytes.Buffer
	cmd.Stderr = &said
	in, err := cmd.StdinPipe()
	if err != nil {
		u.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		u.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		u.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		in.Close()
		_ = cmd.Wait()
		u.Fatalf("the streams begin with %q: %s", lines.Text(), said.String())
	}
	return func() {
		u.Helper()
		in.Close()
		for lines.Scan() {
			u.Log(lines.Text())
		}
		if err := cmd.Wait(); err != nil {
			u.Errorf("streams: %v\n%s", err, said.String())
		}
	}
}
