package compiler

import (
	"fmt"
	"math"
	"math/bits"
	"strings"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/bpfmap"
	svc "plumb.internal/plumb/reconciler/resource/service"
	"plumb.internal/plumb/schema"
)

// Defaults of tuning.maps.
const (
	defaultRatio = 0.0025
	// defaultServices is for machines with at least so many times memoryPerService; smaller ones get less, down to leastServices.
	defaultServices  = 65536
	memoryPerService = 64 << 10
	leastServices    = 4096
)

// learntMaps fill by themselves with what clients do, and forget what wasn't used for longest. They share a part of the
// memory: tuning.maps.ratio.
var learntMaps = []struct {
	base        string
	share       float64
	entry       float64 // bytes that one takes, with what the kernel adds: 48 and the entry in its list
	floor, most int
}{
	{"flows", 0.50, 136, 16384, 4 << 20}, // two for each flow
	{"sock_reverse", 0.20, 128, 8192, 1 << 20},
	{"affinities", 0.15, 96, 8192, 1 << 20},
	{"sock_forward", 0.10, 128, 4096, 1 << 20},
	{"fragments", 0.05, 104, 1024, 1 << 16},
}

// askers are the entries of the map of who asks pods from outside, where programs masquerade. Its room is its own: whoever asks
// takes none from flows. Each processor takes up to 128 at once.
const askers = 8192

// declaredMaps hold what the files say. They take memory for what is in them; their sizes follow tuning.maps.services.
var declaredMaps = []struct {
	base     string
	services float64 // times the number of services
	floor    int
	what     string
}{
	{"frontends", 1, 1, "addresses and ports of services"},
	{"slots", 4, 4, "backends by weight"},
	{"members", 2, 2, "backends of services with affinity"},
	{"endpoints", 0.5, 1024, "addresses of pods"},
	{"namespaces", 0.25, 512, "network namespaces"},
	{"macs", 0.25, 512, "MACs of macvlan pods"},
	{"paces", 0.5, 1024, "addresses of pods with a limit"},
	{"uplinks", 0, 64, "uplinks"},
	{"excluded", 0.25, 512, "ranges that aren't masqueraded"},
}

const (
	// spareTables are free elements of an array of Maglev tables, for those that are written before they are used.
	spareTables = 8
	// smallTable is the largest table for which there is room, so that the first services with Maglev resize nothing.
	smallTable = 16381
)

// mapSizes are the most entries of each map, by base.
type mapSizes map[string]int

// of is the size of one map. Those that no table names have one entry.
func (s mapSizes) of(base string) int { return max(s[base], 1) }

// sizeMaps sizes all maps that there are; those that no program uses don't matter.
func (b *builder) sizeMaps() mapSizes {
	sizes := mapSizes{"counters": len(bpf.Counters)}
	maps := b.mapsSettings()
	for _, m := range learntMaps {
		n := 0
		if b.set.Host != nil {
			n = int(float64(b.set.Host.MemoryBytes) * maps.Ratio * m.share / m.entry)
		}
		sizes[m.base] = roundDown(min(max(n, m.floor), m.most))
	}
	for _, m := range declaredMaps {
		sizes[m.base] = max(int(float64(maps.Services)*m.services), m.floor)
	}
	if !b.datapath.pace {
		delete(sizes, "paces") // which programs have all the same
	}
	if b.datapath.onUplinks() {
		sizes["asked"] = askers
	}
	tables := make([]int, len(bpf.MaglevClasses))
	for i := range b.frontends {
		if size := b.frontends[i].TableSize; size > 0 {
			tables[bpf.MaglevClass(size)]++
		}
	}
	for i, n := range tables {
		if n > 0 || bpf.MaglevClasses[i] <= smallTable {
			sizes[bpf.MaglevMap(i)] = tablesFor(n)
		}
	}
	return sizes
}

// mapsSettings are the node's tuning.maps with its defaults.
func (b *builder) mapsSettings() schema.Maps {
	m, all := b.node.Tuning.Maps, b.cfg.Tuning.Maps
	if m.Ratio == 0 {
		m.Ratio = all.Ratio
	}
	if m.Services == 0 {
		m.Services = all.Services
	}
	if m.Ratio == 0 {
		m.Ratio = defaultRatio
	}
	if m.Services == 0 {
		m.Services = defaultServices
		if b.set.Host != nil {
			m.Services = roundDown(min(max(int(b.set.Host.MemoryBytes/memoryPerService), leastServices), defaultServices))
		}
	}
	return m
}

// mapsPath is where a setting of tuning.maps is, or would be.
func (b *builder) mapsPath(name string, inNode, inAll bool) string {
	switch {
	case inNode:
		return b.node.path + ".tuning.maps." + name
	case inAll:
		return "tuning.maps." + name
	}
	return b.node.path
}

// SizedBy says what the size of a map follows: "ratio" (tuning.maps.ratio), "services" (tuning.maps.services), "tables" (the
// services with Maglev) or "fixed".
func SizedBy(base string) string {
	for _, m := range learntMaps {
		if m.base == base {
			return "ratio"
		}
	}
	for _, m := range declaredMaps {
		if m.base == base {
			return "services"
		}
	}
	if strings.HasPrefix(base, "maglev_") {
		return "tables"
	}
	return "fixed"
}

// settleMapSizes makes the sizes of maps a choice that plan shows, where there are any that fill by themselves, or the files
// ask for sizes.
func (b *builder) settleMapSizes(used map[string]resource.ID) {
	s, want := b.situation(), b.mapsSettings()
	var total int64
	var learnt []string
	for base := range used {
		total += bpfmap.Bytes(base, b.datapath.sizes.of(base))
	}
	for _, m := range learntMaps {
		if _, ok := used[m.base]; ok {
			learnt = append(learnt, fmt.Sprintf("%s %d", m.base, b.datapath.sizes[m.base]))
			s.learnt += bpfmap.Bytes(m.base, b.datapath.sizes[m.base])
		}
	}
	node, all := b.node.Tuning.Maps, b.cfg.Tuning.Maps
	if learnt == nil && node == (schema.Maps{}) && all == (schema.Maps{}) {
		return
	}
	wanted := "auto"
	if node != (schema.Maps{}) || all != (schema.Maps{}) {
		wanted = fmt.Sprintf("ratio %g, services %d", want.Ratio, want.Services)
	}
	t := settingOf(tuningMaps)
	if why := t.refuse(wanted, s); why != "" && wanted != "auto" {
		b.refused(t, wanted, b.mapsPath("ratio", node.Ratio != 0, all.Ratio != 0), why)
		return
	}
	reason := "at most, with all maps full"
	switch {
	case learnt == nil:
	case b.set.Host == nil:
		reason = sentences(reason, fmt.Sprintf("the least there is for what is learnt (%s), as the machine's memory isn't known", strings.Join(learnt, ", ")))
	default:
		reason = sentences(reason, fmt.Sprintf("%g of %s of memory for what is learnt (%s)", want.Ratio, mebibytes(b.set.Host.MemoryBytes), strings.Join(learnt, ", ")))
	}
	b.choice(tuningMaps, wanted, mebibytes(total), sentences(reason, fmt.Sprintf("room for %d services", want.Services)))
}

// tooMuch says where what fills by itself would take the memory from everything else: the kernel sets it aside at once.
func tooMuch(s *situation, _ string) string {
	if s.set.Host == nil || s.learnt <= s.set.Host.MemoryBytes/2 {
		return ""
	}
	return fmt.Sprintf("the maps for what is learnt would take %s of this machine's %s of memory, and half of it is the most",
		mebibytes(s.learnt), mebibytes(s.set.Host.MemoryBytes))
}

// checkSizes finds used maps that are too small for the configuration, and says which number would do.
func (b *builder) checkSizes(sizes mapSizes, used map[string]resource.ID) {
	needed := b.entriesNeeded()
	services, worst := 0, -1
	for i, m := range declaredMaps {
		if _, ok := used[m.base]; ok && needed[m.base] > sizes.of(m.base) {
			if s := int(math.Ceil(float64(needed[m.base]) / m.services)); s > services {
				services, worst = s, i
			}
		}
	}
	if worst < 0 {
		return
	}
	m := declaredMaps[worst]
	path := b.mapsPath("services", b.node.Tuning.Maps.Services != 0, b.cfg.Tuning.Maps.Services != 0)
	b.add(path, "", "the eBPF maps are too small for node %s: %s (map %s) are %d, and there is room for %d; set tuning.maps.services to %d or more",
		b.node.name, m.what, m.base, needed[m.base], sizes[m.base], services)
}

// entriesNeeded counts what the files put into each declared map.
func (b *builder) entriesNeeded() map[string]int {
	n := map[string]int{"frontends": len(b.frontends), "namespaces": len(b.node.pods) + 1}
	for i := range b.frontends {
		slots, members := svc.Room(b.frontends[i].Frontend)
		n["slots"] += slots
		n["members"] += members
	}
	if b.datapath.onUplinks() {
		n["excluded"] = len(b.unmasqueraded())
	}
	for _, p := range b.node.pods {
		n["endpoints"] += len(p.addrs)
		if p.Attach == "macvlan" {
			n["macs"]++
		}
		if b.datapath.pace && p.limits.egress != 0 {
			n["paces"] += len(p.addrs)
		}
	}
	return n
}

// roundDown goes to the next number with four significant bits, so that sizes change seldom.
func roundDown(n int) int {
	step := 1 << max(0, bits.Len(uint(n))-4)
	return n / step * step
}

// tablesFor is the size of an array for n Maglev tables and some to spare, such that few new services resize it.
func tablesFor(n int) int {
	n += n/16 + spareTables
	step := 1 << max(4, bits.Len(uint(n))-4)
	return (n + step - 1) / step * step
}

// mebibytes is a size for people.
func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
