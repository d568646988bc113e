package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/neigh"
	"plumb.internal/plumb/reconciler/resource/route"
)

// errElsewhere says that there is nothing of a kind to be harmed just now.
var errElsewhere = errors.New("nothing of that kind is there")

// harms are what the adversary does, each with one object that it picks: half of the time it deletes, else it changes.
var harms = map[string]func(s *soak, r resource.Resource) error{
	"link":     (*soak).harmLink,
	"addr":     (*soak).harmAddress,
	"route":    (*soak).harmRoute,
	"rule":     (*soak).harmRule,
	"neigh":    (*soak).harmNeighbour,
	"sysctl":   (*soak).harmSysctl,
	"netns":    (*soak).harmNamespace,
	"bpflink":  (*soak).harmAttachment,
	"bpfprog":  (*soak).harmPin,
	"bpfmap":   (*soak).harmPin,
	"endpoint": (*soak).harmEntry,
	"uplink":   (*soak).harmEntry,
	"service":  (*soak).harmEntry,
	"nft":      (*soak).harmTable,
}

// spoil does one thing against the daemon. Of what is spared it harms only what the whole node shares.
func (s *soak) spoil() {
	o, err := reconciler.Observe(s.Context(), s.h, resource.State{})
	if err != nil {
		return // the daemon is at work in the middle of it
	}
	byKind := map[string][]resource.Resource{"qdisc": {nil}, "rule": {nil}}
	for _, id := range o.Owned.IDs() {
		r := o.Owned[id]
		if !strings.Contains(fmt.Sprint(id, resource.Pod(r)), "spared") {
			byKind[string(id.Kind)] = append(byKind[string(id.Kind)], r)
		}
	}
	kinds := slices.Sorted(maps.Keys(byKind))
	for range 20 {
		kind := kinds[s.rnd.IntN(len(kinds))]
		s.change = s.chance()
		if kind == "qdisc" {
			err = s.harmQdisc(o)
		} else if harm := harms[kind]; harm != nil {
			err = harm(s, byKind[kind][s.rnd.IntN(len(byKind[kind]))])
		} else {
			s.Fatalf("nobody knows how to harm a %s", kind)
		}
		if err == nil {
			s.count[kind+map[bool]string{true: " changed", false: " deleted"}[s.change]]++
			return
		}
	}
}

func (s *soak) chance() bool { return s.rnd.IntN(2) == 0 }

// delete takes an object away as plumb itself would.
func (s *soak) delete(r resource.Resource) error {
	p := &resource.Plan{Changes: []resource.Change{{ID: r.ID(), Action: resource.Delete, Before: r}}}
	return reconciler.Apply(s.Context(), s.h, p, reconciler.ApplyOptions{Parallel: 1})
}

func (s *soak) device(netns, name string) (*host.NS, netlink.Link, error) {
	ns, err := s.h.NS(netns)
	if err != nil {
		return nil, nil, err
	}
	l, err := ns.Handle().LinkByName(name)
	return ns, l, err
}

func (s *soak) harmLink(r resource.Resource) error {
	if !s.change {
		return s.delete(r)
	}
	ns, l, err := s.device(r.ID().NetNS, r.ID().Name)
	if err != nil {
		return err
	}
	switch s.rnd.IntN(4) {
	case 0:
		return ns.Handle().LinkSetDown(l)
	case 1:
		return ns.Handle().LinkSetMTU(l, 1300)
	case 2:
		return ns.Handle().LinkSetAlias(l, "somebody's")
	}
	return ns.Handle().LinkSetHardwareAddr(l, net.HardwareAddr{2, 0, 0, 0, 0, byte(s.rnd.IntN(256))})
}

// harmAddress lets an address run out, if it doesn't delete it.
func (s *soak) harmAddress(r resource.Resource) error {
	if !s.change {
		return s.delete(r)
	}
	prefix, dev, _ := strings.Cut(r.ID().Name, " dev ")
	ns, l, err := s.device(r.ID().NetNS, dev)
	if err != nil {
		return err
	}
	a, err := netlink.ParseAddr(prefix)
	if err != nil {
		return err
	}
	a.ValidLft, a.PreferedLft, a.Protocol = 2, 1, resource.Protocol
	return ns.Handle().AddrReplace(l, a)
}

func (s *soak) harmRoute(r resource.Resource) error {
	if !s.change {
		return s.delete(r)
	}
	one := r.(route.Route)
	ns, err := s.h.NS(one.NetNS)
	if err != nil {
		return err
	}
	_, dst, _ := net.ParseCIDR(one.Dst.String())
	filter := &netlink.Route{Dst: dst, Table: one.Table, Priority: one.Metric, Protocol: resource.Protocol}
	family := map[bool]int{true: netlink.FAMILY_V4, false: netlink.FAMILY_V6}[one.Dst.Addr().Is4()]
	found, err := ns.Handle().RouteListFiltered(family, filter, netlink.RT_FILTER_DST|netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PRIORITY|netlink.RT_FILTER_PROTOCOL)
	if err != nil || len(found) != 1 {
		return cmp.Or(err, errElsewhere)
	}
	found[0].Src = nil
	if s.chance() { // another device
		lo, err := ns.Handle().LinkByName("lo")
		if err != nil {
			return err
		}
		found[0].LinkIndex, found[0].Gw, found[0].Flags = lo.Attrs().Index, nil, 0
	} else {
		found[0].Type = unix.RTN_BLACKHOLE
		found[0].LinkIndex, found[0].Gw, found[0].Flags = 0, nil, 0
	}
	return ns.Handle().RouteReplace(&found[0])
}

// harmRule deletes the rule of the adopted namespace, or puts one of ours that leads elsewhere beside it. The namespace is
// recorded by a path of the node's own, so the adversary doesn't observe it.
func (s *soak) harmRule(resource.Resource) error {
	if s.change {
		return s.in("ip", "-n", "container", "rule", "add", "pref", "1000", "from", "10.0.0.25", "lookup", "4242", "protocol", "112").Run()
	}
	return s.in("ip", "-n", "container", "rule", "del", "pref", "1000").Run()
}

func (s *soak) harmNeighbour(r resource.Resource) error {
	one := r.(neigh.Neigh)
	if !s.change || one.Proxy {
		return s.delete(r)
	}
	ns, l, err := s.device(one.NetNS, one.Dev)
	if err != nil {
		return err
	}
	return ns.Handle().NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: one.IP.AsSlice(), State: netlink.NUD_PERMANENT,
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 1, byte(s.rnd.IntN(256))}})
}

// harmSysctl writes another value. There is no way to delete one.
func (s *soak) harmSysctl(r resource.Resource) error {
	ns, err := s.h.NS(r.ID().NetNS)
	if err != nil {
		return err
	}
	return ns.Do(func() error {
		path := "/proc/sys/" + strings.ReplaceAll(r.ID().Name, ".", "/")
		now, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(now)))
		if err != nil {
			return err
		}
		return os.WriteFile(path, []byte(strconv.Itoa(map[bool]int{true: 0, false: n + 1}[n == 1])), 0o644)
	})
}

// harmNamespace takes away a name, or only what it stands for. Somebody else's namespace keeps its name.
func (s *soak) harmNamespace(r resource.Resource) error {
	if r.ID().Name == "guest" {
		return errElsewhere
	}
	if s.change {
		return s.in("umount", "-l", "/run/netns/"+r.ID().Name).Run()
	}
	return s.in("ip", "netns", "del", r.ID().Name).Run()
}

// harmQdisc takes the clsact qdisc from one of our devices, and on some kernels our programs with it, or changes its qdiscs.
func (s *soak) harmQdisc(o *reconciler.Observed) error {
	var devs []string
	for id, r := range o.Owned {
		if id.Kind == "bpflink" && id.NetNS == "" && !strings.Contains(fmt.Sprint(id, resource.Pod(r)), "spared") {
			if dev, _, _ := strings.Cut(id.Name, " "); dev != "cgroup" && dev != "eth0" {
				devs = append(devs, dev)
			}
		}
	}
	if len(devs) == 0 {
		return errElsewhere
	}
	slices.Sort(devs)
	dev := devs[s.rnd.IntN(len(devs))]
	if !s.change {
		return s.in("tc", "qdisc", "del", "dev", dev, "clsact").Run()
	}
	return s.in("tc", "qdisc", "replace", "dev", dev, "root", "pfifo", "limit", "10").Run()
}

// harmAttachment detaches a program, or puts one that does nothing in its place, or does to the link's pin what is done to
// others.
func (s *soak) harmAttachment(r resource.Resource) error {
	pin := s.chance()
	if !pin && !s.change {
		return s.delete(r)
	}
	var links []string
	err := filepath.WalkDir(s.h.BPFPath(host.BPFLinkFolder), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && !strings.Contains(path, "spared") {
			links = append(links, path)
		}
		return nil
	})
	if err != nil || len(links) == 0 {
		return cmp.Or(err, errElsewhere)
	}
	path := links[s.rnd.IntN(len(links))]
	if pin {
		return s.repin(path)
	}
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	return l.Update(s.idle) // refused by links of another type
}

// harmPin removes the pin of a map or a program, or puts another object in its place.
func (s *soak) harmPin(r resource.Resource) error {
	folder := map[resource.Kind]string{"bpfmap": host.BPFMapFolder, "bpfprog": host.BPFProgramFolder}[r.ID().Kind]
	return s.repin(s.h.BPFPath(folder, r.ID().Name))
}

func (s *soak) repin(path string) error {
	if err := os.Remove(path); err != nil || !s.change {
		return err
	}
	if s.chance() {
		p, err := s.idle.Clone()
		if err != nil {
			return err
		}
		defer p.Close()
		return p.Pin(path)
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Pin(path)
}

// harmEntry deletes an entry of a map that plumb alone writes, changes one, or adds one.
func (s *soak) harmEntry(resource.Resource) error {
	names, err := s.h.BPFNames(host.BPFMapFolder)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		base, _, _, ok := bpf.ParseMapName(name)
		return !ok || bpf.Layouts[base].Lives != bpf.Configured
	})
	if len(names) == 0 {
		return errElsewhere
	}
	m, err := ebpf.LoadPinnedMap(s.h.BPFPath(host.BPFMapFolder, names[s.rnd.IntN(len(names))]), nil)
	if err != nil {
		return err
	}
	defer m.Close()
	var keys [][]byte
	key := make([]byte, m.KeySize())
	for next, err := m.NextKeyBytes(nil); next != nil && err == nil && len(keys) < 100; next, err = m.NextKeyBytes(key) {
		copy(key, next)
		if !spares(next) {
			keys = append(keys, slices.Clone(next))
		}
	}
	if len(keys) == 0 {
		return errElsewhere
	}
	key = keys[s.rnd.IntN(len(keys))]
	value, err := m.LookupBytes(key)
	switch {
	case err != nil || value == nil:
		return cmp.Or(err, errElsewhere)
	case m.Type() == ebpf.Array && bytes.Count(value, []byte{0}) == len(value):
		return errElsewhere // a table that isn't used
	case m.Type() == ebpf.Array || s.change:
		value[s.rnd.IntN(min(len(value), 256))] ^= byte(1 + s.rnd.IntN(255))
		if s.chance() && m.Type() != ebpf.Array {
			key[s.rnd.IntN(len(key))] ^= byte(1 + s.rnd.IntN(255))
		}
		if spares(key) {
			return errElsewhere
		}
		return m.Put(key, value)
	}
	return m.Delete(key)
}

// spares reports whether a key is that of a pod which is spared.
func spares(key []byte) bool {
	for _, text := range soakSpared {
		if a := bpf.AddressOf(netip.MustParseAddr(text)); bytes.Contains(key, a[:]) {
			return true
		}
	}
	return false
}

// harmTable takes away plumb's table of nftables or a part of it, or adds to it.
func (s *soak) harmTable(resource.Resource) error {
	how := []string{"delete table inet plumb", "flush table inet plumb", "flush map inet plumb slots4", "flush map inet plumb services4"}
	if s.change {
		how = []string{"add rule inet plumb services counter drop", "add chain inet plumb strange", "flush map inet plumb slots4; add element inet plumb slots4 { 10.96.0.1 . tcp . 80 . 0x0 : 192.0.2.1 . 81 }",
			`add element inet plumb segments { "x" . "y" }`}
	}
	return s.in("nft", how[s.rnd.IntN(len(how))]).Run()
}
