// Package sysctl is the kind of kernel settings under /proc/sys. No mark is possible on them: the value from before the
// first change is recorded in the run folder and comes back on delete.
package sysctl

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// Kind is the name of this kind.
const Kind resource.Kind = "sysctl"

// Sysctl is one setting in one namespace.
type Sysctl struct {
	NetNS string
	// Key is the name with dots; a part that itself holds a dot (a device eth0.5) is written with a slash, as sysctl(8) does.
	Key   string
	Value string // white space is folded when compared
	Link  resource.ID
	// OnlyFrom, if set, is the one present value that is changed; any other is left alone and counts as right.
	// (accept_ra: 1 must become 2 before forwarding is switched on; 0 stays 0.)
	OnlyFrom string
	// AtLeast leaves numbers alone that are larger already: Value is the least of each.
	AtLeast bool
	// Follow is another setting that must be in place first; zero for none.
	Follow resource.ID
	From   string

	// severs is observed only: as things are, switching this setting on cuts what came by router advertisements.
	severs bool
}

// ID implements resource.Resource.
func (s Sysctl) ID() resource.ID { return resource.ID{Kind: Kind, NetNS: s.NetNS, Name: s.Key} }

// After implements resource.Resource.
func (s Sysctl) After() []resource.ID {
	ids := s.DiesWith()
	if s.Follow != (resource.ID{}) {
		ids = append(ids, s.Follow)
	}
	return ids
}

// DiesWith implements resource.Resource: the namespace and the device.
func (s Sysctl) DiesWith() []resource.ID {
	var ids []resource.ID
	if s.NetNS != "" {
		ids = append(ids, resource.ID{Kind: "netns", Name: s.NetNS})
	}
	if s.Link != (resource.ID{}) {
		ids = append(ids, s.Link)
	}
	return ids
}

// Requires implements resource.Resource.
func (s Sysctl) Requires() []features.Feature { return nil }

// Origin implements resource.Resource.
func (s Sysctl) Origin() string { return s.From }

// Disruption implements resource.Disrupter: what is reached over a route learnt by router advertisement would be lost.
func (s Sysctl) Disruption(_ resource.Action, from resource.Resource) resource.Disruption {
	f, _ := from.(Sysctl)
	if f.severs && on(s.Value) {
		return resource.DisruptsSession
	}
	return resource.DisruptsNothing
}

// Ops implements reconciler.Ops for kernel settings.
type Ops struct{}

// Diff lists what differs between the present and the desired value.
func (Ops) Diff(observed, desired Sysctl) (fields []resource.Field, inPlace bool) {
	before, after := fold(observed.Value), desired.over(observed.Value)
	if before == after || (desired.OnlyFrom != "" && before != fold(desired.OnlyFrom)) {
		return nil, true
	}
	return []resource.Field{{Name: "value", Before: before, After: after}}, true
}

// fold makes values comparable: the kernel separates numbers by tabs, people by spaces.
func fold(value string) string { return strings.Join(strings.Fields(value), " ") }

// over is what a setting becomes that has a value now: the larger numbers of both, if the desired ones are the least.
func (s Sysctl) over(now string) string {
	want, have := strings.Fields(s.Value), strings.Fields(now)
	if s.AtLeast && len(want) == len(have) {
		for i := range want {
			w, err1 := strconv.ParseInt(want[i], 10, 64)
			h, err2 := strconv.ParseInt(have[i], 10, 64)
			if err1 == nil && err2 == nil && h > w {
				want[i] = have[i]
			}
		}
	}
	return strings.Join(want, " ")
}

func on(value string) bool { v := fold(value); return v != "" && v != "0" }

// path is the file of a key below /proc/sys: dots separate, and slashes are dots ("net.ipv4.conf.eth0/5.forwarding" is
// net/ipv4/conf/eth0.5/forwarding).
func path(key string) (string, error) {
	swap := strings.NewReplacer(".", "/", "/", ".")
	p := swap.Replace(key)
	if !filepath.IsLocal(p) || filepath.Clean(p) != p || p == "." {
		return "", fmt.Errorf("%q is not the name of a kernel setting", key)
	}
	return p, nil
}

// key is the opposite of path.
func key(path string) string { return strings.NewReplacer(".", "/", "/", ".").Replace(path) }

// follower is a setting that the kernel changes along with another one.
type follower struct {
	Key   string `json:"key"`
	Prior string `json:"prior"`
	Ours  string `json:"ours"` // what the kernel makes of it
}

// followers names the settings that the kernel changes when it changes the forwarding of a whole family, and the values
// that they get. devices are the entries of confDir, dots as they are in the file system.
func followers(master, value string, devices []string) []follower {
	dir := confDir(master)
	if dir == "" {
		return nil
	}
	forward, redirects := "0", "1"
	if on(value) {
		forward, redirects = "1", "0"
	}
	var along []follower
	if dir == confDir4 {
		// inet_forward_change of net/ipv4/devinet.c
		along = append(along, follower{Key: "net.ipv4.conf.all.accept_redirects", Ours: redirects})
	}
	for _, d := range devices {
		if d != "all" {
			along = append(along, follower{Key: key(dir + "/" + d + "/forwarding"), Ours: forward})
		}
	}
	return along
}

const (
	confDir4 = "net/ipv4/conf"
	confDir6 = "net/ipv6/conf"
)

// confDir is the folder whose entries are the devices that followers asks for; "" where a key has no followers.
func confDir(master string) string {
	switch master {
	case "net.ipv4.ip_forward", "net.ipv4.conf.all.forwarding":
		return confDir4
	case "net.ipv6.conf.all.forwarding":
		return confDir6
	}
	return ""
}
