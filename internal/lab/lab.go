// Package lab runs the nodes of a repository in private network namespaces of this machine, so that a configuration can
// be tried on a laptop or in CI without changing anything of it.
//
//	       lab "edge-1f3a09"
//	┌──────────────────────────────────────────────────────────┐
//	│ underlay (a network namespace, held by one process)      │
//	│   net0: bridge, 192.168.31.1/24 and fd00:31::1/64        │
//	│     │ veth                    │ veth                     │
//	│ ┌───┴───────────────────┐ ┌───┴───────────────────┐      │
//	│ │ node edge-1           │ │ node edge-2           │      │
//	│ │ eth0 192.168.31.100   │ │ eth0 192.168.31.101   │      │
//	│ │ own /run, /sys, bpffs │ │                       │      │
//	│ │ own cgroup, host name │ │                       │      │
//	│ └───────────────────────┘ └───────────────────────┘      │
//	└──────────────────────────────────────────────────────────┘
//
// Every process of a lab, and whatever they start, is born in the lab's cgroup. The cgroup is thereby the one record of
// what has to go: its processes are killed, and the kernel takes the namespaces, links and mounts along. This holds after
// a kill -9 of any of them, or of `lab up` in the middle.
//
//	lab.go, up.go   the record of a lab, bringing one up and down
//	holder.go       the processes that hold the namespaces: this program, started again under another name
//	enter.go        running a command in a node
//	underlay.go     the network between the nodes
//	addresses.go    from a configuration to nodes, with addresses where it names none
//	cgroup.go       the cgroup
//
// The tests need root and a cgroup2 file system: go test ./internal/lab. A test binary that starts labs calls RunChild at
// the start of TestMain.
package lab

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is the folder of the machine that holds one folder per lab.
const Root = "/run/plumb-lab"

// ErrNotUp is returned where a lab is not running.
var ErrNotUp = errors.New("lab is not up")

// Lab is a lab that is up.
type Lab struct {
	Name     string `json:"name"`
	Dir      string `json:"dir"`      // the repository
	Underlay int    `json:"underlay"` // pid of the process that holds the underlay's namespace
	Nodes    []Node `json:"nodes"`
}

// Node is one node of a lab.
type Node struct {
	Name      string   `json:"name"`
	PID       int      `json:"pid"` // the process that holds the node's namespaces
	Uplinks   []Uplink `json:"uplinks"`
	PodCIDRs  []string `json:"podCIDRs,omitempty"` // the underlay routes them to the node
	UplinkMTU int      `json:"mtu,omitempty"`      // bytes
}

// Uplink is one device that leads out of a node, and its addresses with prefix length.
type Uplink struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses,omitempty"`
}

var nameRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// DefaultName is the name of the lab of a repository: the folder's name and a hash of its path, so that labs of
// different folders don't meet.
func DefaultName(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find folder %s: %w", dir, err)
	}
	clean := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(filepath.Base(abs)))
	clean = strings.Trim(clean[:min(len(clean), 40)], "-")
	return strings.TrimPrefix(fmt.Sprintf("%s-%.6x", clean, sha256.Sum256([]byte(abs))), "-"), nil
}

// Open returns the lab of this name. The error wraps ErrNotUp where there is none, or only the remains of one.
func Open(name string) (*Lab, error) {
	data, err := os.ReadFile(filepath.Join(Root, name, "lab.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s (plumb lab up starts it)", ErrNotUp, name)
	}
	if err != nil {
		return nil, fmt.Errorf("read lab %s: %w", name, err)
	}
	l := new(Lab)
	if err := json.Unmarshal(data, l); err != nil {
		return nil, fmt.Errorf("read lab %s: %w", name, err)
	}
	cg, err := cgroupOf(name)
	if err != nil {
		return nil, err
	}
	for _, n := range l.Nodes {
		if !cg.holds(n.Name, n.PID) {
			return nil, fmt.Errorf("%w: node %s of %s is gone (plumb lab up starts it again)", ErrNotUp, n.Name, name)
		}
	}
	if !cg.holds("", l.Underlay) {
		return nil, fmt.Errorf("%w: the underlay of %s is gone (plumb lab up starts it again)", ErrNotUp, name)
	}
	return l, nil
}

// Node returns the node of this name, or the only one where name is "".
func (l *Lab) Node(name string) (*Node, error) {
	if name == "" && len(l.Nodes) == 1 {
		return &l.Nodes[0], nil
	}
	i := slices.IndexFunc(l.Nodes, func(n Node) bool { return n.Name == name })
	if i >= 0 {
		return &l.Nodes[i], nil
	}
	var names []string
	for _, n := range l.Nodes {
		names = append(names, n.Name)
	}
	if name == "" {
		return nil, fmt.Errorf("lab %s has several nodes, name one of %s", l.Name, strings.Join(names, ", "))
	}
	return nil, fmt.Errorf("lab %s has no node %s, only %s", l.Name, name, strings.Join(names, ", "))
}

// save writes the lab's record; only then does the lab count as up.
func (l *Lab) save() error {
	data, err := json.MarshalIndent(l, "", "\t")
	if err != nil {
		return fmt.Errorf("encode lab %s: %w", l.Name, err)
	}
	path := filepath.Join(Root, l.Name, "lab.json")
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write lab %s: %w", l.Name, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write lab %s: %w", l.Name, err)
	}
	return nil
}

// lock holds the lab's folder for one process at a time, making it where it is missing.
func lock(name string) (unlock func(), err error) {
	if !nameRE.MatchString(name) {
		return nil, fmt.Errorf("lab name %q is not a DNS label (small letters, digits and dashes)", name)
	}
	dir := filepath.Join(Root, name)
	for {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("make folder of lab %s: %w", name, err)
		}
		f, err := os.Open(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("open folder of lab %s: %w", name, err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			f.Close()
			return nil, fmt.Errorf("lock lab %s: %w", name, err)
		}
		// The one who held it may have removed it.
		mine, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock lab %s: %w", name, err)
		}
		if now, err := os.Stat(dir); err == nil && os.SameFile(mine, now) {
			return func() { f.Close() }, nil
		}
		f.Close()
	}
}
