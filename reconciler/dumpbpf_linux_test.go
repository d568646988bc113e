package reconciler_test

import (
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource/nft"
)

// cgroupHooks are the hooks of socket programs.
var cgroupHooks = map[string]ebpf.AttachType{
	"connect4": ebpf.AttachCGroupInet4Connect, "connect6": ebpf.AttachCGroupInet6Connect,
	"sendmsg4": ebpf.AttachCGroupUDP4Sendmsg, "sendmsg6": ebpf.AttachCGroupUDP6Sendmsg,
	"recvmsg4": ebpf.AttachCGroupUDP4Recvmsg, "recvmsg6": ebpf.AttachCGroupUDP6Recvmsg,
	"getpeername4": ebpf.AttachCgroupInet4GetPeername, "getpeername6": ebpf.AttachCgroupInet6GetPeername,
	"sock_release": ebpf.AttachCgroupInetSockRelease,
}

// dumpDatapath prints the node's pins, what is configured in its maps, what is attached to its cgroup, and its ruleset.
func dumpDatapath(t testing.TB, h *host.Host, names []string) (lines []string) {
	t.Helper()
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(h.BPFFS, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err == nil && !d.IsDir() {
			path, _ = filepath.Rel(h.BPFFS, path)
			say("pin %s", host.BPFName(path))
		}
		return err
	})
	must(err)
	lines = append(lines, dumpMaps(t, h, names)...)
	if h.Cgroup != "" {
		dir, err := os.Open(h.Cgroup)
		must(err)
		defer dir.Close()
		programs := programNames(t, h)
		for hook, at := range cgroupHooks {
			on, err := host.QueryBPF(int(dir.Fd()), at, false)
			if err != nil {
				continue // a kernel without this hook
			}
			for i, id := range on.Programs {
				say("cgroup %s %d: %s", hook, i, programs[id])
			}
		}
	}
	ns, err := h.NS("")
	must(err)
	must(ns.Do(func() error {
		tables, err := (&nftables.Conn{}).ListTables()
		for _, table := range tables {
			say("table %s", table.Name)
		}
		return err
	}))
	tables, _, err := nft.Ops{}.Observe(t.Context(), h, nil)
	must(err)
	for _, table := range tables {
		say("ruleset %v segments %v damage %q", table.Frontends, table.Segments, table.Damage)
	}
	return lines
}

// programNames are those of the pinned programs, by the kernel's number; any other has the name "".
func programNames(t testing.TB, h *host.Host) map[uint32]string {
	t.Helper()
	programs, err := h.BPFPrograms()
	if err != nil {
		t.Fatal(err)
	}
	names := map[uint32]string{}
	for _, p := range programs {
		names[p.ID] = p.Name + p.Fault
	}
	return names
}

// dumpMaps prints what is configured in the pinned maps. Numbers that the kernel chose are shown by what has them; which
// element holds a Maglev table, and where round-robin stands, isn't shown.
func dumpMaps(t testing.TB, h *host.Host, names []string) (lines []string) {
	t.Helper()
	device, namespace := map[uint32]string{}, map[uint64]string{}
	for _, name := range names {
		ns, err := h.NS(name)
		if err != nil {
			t.Fatal(err)
		}
		cookies, err := h.Cookies(ns)
		if err != nil {
			t.Fatal(err)
		}
		namespace[cookies[0]] = "namespace " + name
		if name == "" {
			links, err := ns.Links()
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range links {
				device[uint32(l.Index)] = l.Name
			}
		}
	}
	each(t, h, "frontends", func(name string, k bpf.FrontendKey, v bpf.Frontend) {
		table := ""
		if v.Algorithm == bpf.Maglev && v.Slots > 0 {
			table = dumpTable(t, h, v)
		}
		v.Table, v.Next = 0, 0
		lines = append(lines, fmt.Sprintf("map %s: %s port %d proto %d: %+v %s", name, k.Addr.Addr(), k.Port.Number(), k.Proto, v, table))
	})
	each(t, h, "slots", func(name string, k bpf.SlotKey, v bpf.Backend) {
		lines = append(lines, fmt.Sprintf("map %s: %+v: %+v", name, k, v))
	})
	each(t, h, "members", func(name string, k bpf.MemberKey, v uint32) {
		lines = append(lines, fmt.Sprintf("map %s: %+v: %d", name, k, v))
	})
	each(t, h, "endpoints", func(name string, k bpf.Address, v bpf.Endpoint) {
		dev := device[v.Ifindex]
		v.Ifindex = 0
		lines = append(lines, fmt.Sprintf("map %s: %s: %s %+v", name, k.Addr(), dev, v))
	})
	each(t, h, "namespaces", func(name string, k uint64, v uint32) {
		lines = append(lines, fmt.Sprintf("map %s: %s: %d", name, namespace[k], v))
	})
	each(t, h, "macs", func(name string, k [8]byte, v uint32) {
		lines = append(lines, fmt.Sprintf("map %s: %x: %s", name, k, device[v]))
	})
	return lines
}

// dumpTable is a hash of the Maglev table of a frontend.
func dumpTable(t testing.TB, h *host.Host, f bpf.Frontend) string {
	t.Helper()
	arrays, err := h.BPFMaps(fmt.Sprintf("maglev_%ds", bpf.MaglevClasses[f.Class]))
	if err != nil {
		t.Fatal(err)
	}
	var tables []string
	for _, m := range arrays {
		b, err := m.LookupBytes(f.Table)
		if err != nil {
			t.Fatal(err)
		}
		sum := fnv.New64()
		sum.Write(b)
		tables = append(tables, fmt.Sprintf("table %x of %s", sum.Sum64(), m.Name))
	}
	return strings.Join(tables, ", ")
}

// each visits the entries of all pinned maps of a base.
func each[K, V any](t testing.TB, h *host.Host, base string, visit func(name string, k K, v V)) {
	t.Helper()
	all, err := h.BPFMaps(base)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if err := bpf.Each(m.Map, func(k K, v V) { visit(m.Name, k, v) }); err != nil {
			t.Fatal(err)
		}
	}
}

// dumpHooks prints what is attached to a device, from within its namespace, and the qdiscs that take filters.
func dumpHooks(t testing.TB, h *host.Host, ns *host.NS, index int, name string, programs map[uint32]string) (lines []string) {
	t.Helper()
	for hook, at := range map[string]ebpf.AttachType{"ingress": ebpf.AttachTCXIngress, "egress": ebpf.AttachTCXEgress} {
		on, err := host.QueryBPF(index, at, true)
		if err != nil {
			continue // a kernel without tcx
		}
		for i, id := range on.Programs {
			lines = append(lines, fmt.Sprintf("tcx %s %s %d: %s, link %t", name, hook, i, programs[id], on.Links[i] != 0))
		}
	}
	dev := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
	qdiscs, err := ns.Handle().QdiscList(dev)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range qdiscs {
		if q.Type() != "clsact" {
			continue
		}
		lines = append(lines, fmt.Sprintf("qdisc %s %s", name, q.Type()))
		for hook, parent := range map[string]uint32{"ingress": netlink.HANDLE_MIN_INGRESS, "egress": netlink.HANDLE_MIN_EGRESS} {
			filters, err := ns.Handle().FilterList(dev, parent)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range filters {
				id := 0
				if b, ok := f.(*netlink.BpfFilter); ok {
					id = b.Id
				}
				lines = append(lines, fmt.Sprintf("filter %s %s prio %d handle %#x: %s", name, hook, f.Attrs().Priority, f.Attrs().Handle, programs[uint32(id)]))
			}
		}
	}
	return lines
}
