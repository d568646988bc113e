package reconciler_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// dump prints what is in the root namespace and in every namespace of plumb's, the data path, and the names in plumb's
// folders; not what differs from run to run: indexes, times, and what IPv6 makes by itself.
func dump(t testing.TB, o host.Options, keys map[resource.ID]bool, adopted ...string) string {
	t.Helper()
	h, err := host.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	for i, path := range adopted {
		h.Adopt(fmt.Sprintf("adopted%d", i), path) // also where plumb has let go of it
	}
	names, err := h.Namespaces(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lines := dumpDatapath(t, h, names)
	for _, name := range names {
		lines = append(lines, dumpNS(t, h, name)...)
	}
	for id := range keys {
		ns, err := h.NS(id.NetNS)
		if err != nil {
			continue // the pod isn't there
		}
		path := "/proc/sys/" + strings.NewReplacer(".", "/", "/", ".").Replace(id.Name)
		var v []byte
		if err := ns.Do(func() (err error) { v, err = os.ReadFile(path); return err }); err == nil {
			lines = append(lines, fmt.Sprintf("%s: sysctl %s = %s", id.NetNS, id.Name, strings.TrimSpace(string(v))))
		}
	}
	for _, dir := range []string{o.RunDir, o.NetNSDir} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && d.Name() != "lock" {
				path, _ = filepath.Rel(filepath.Dir(dir), path)
				lines = append(lines, "file "+path)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// dumpNS prints the tables of one namespace.
func dumpNS(t testing.TB, h *host.Host, name string) (lines []string) {
	t.Helper()
	say := func(format string, args ...any) { lines = append(lines, name+": "+fmt.Sprintf(format, args...)) }
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	ns, err := h.NS(name)
	must(err)
	links, err := ns.Links()
	must(err)
	dev := map[int]string{0: "-"}
	for _, l := range links {
		dev[l.Index] = l.Name
	}
	programs := programNames(t, h)
	must(ns.Do(func() error {
		for _, l := range links {
			for _, line := range dumpHooks(t, h, ns, l.Index, l.Name, programs) {
				say("%s", line)
			}
		}
		return nil
	}))
	for _, l := range links {
		if l.Group != resource.Group {
			l.HardwareAddr = nil // somebody else's is random
		}
		say("link %s kind %s mode %d mtu %d mac %s master %s group %#x alias %q up %t", l.Name, l.Kind, l.Mode, l.MTU, l.HardwareAddr,
			dev[l.MasterIndex], l.Group, l.Alias, l.Up())
	}
	addrs, err := ns.Addrs()
	must(err)
	for _, a := range addrs {
		if a.IP.IsLinkLocalUnicast() && a.Protocol != resource.Protocol {
			continue
		}
		say("addr %s dev %s proto %d flags %#x", a.IPNet, dev[a.LinkIndex], a.Protocol, a.Flags)
	}
	routes, err := ns.Routes()
	must(err)
	for _, r := range routes {
		if r.Protocol != resource.Protocol && host.Prefix(r.Dst).Addr().Is6() {
			continue // follows from links and addresses, in the kernel's own time
		}
		say("route %s via %s dev %s table %d metric %d proto %d type %d src %s flags %#x", r.Dst, r.Gw, dev[r.LinkIndex], r.Table,
			r.Priority, r.Protocol, r.Type, r.Src, r.Flags&unix.RTNH_F_ONLINK)
	}
	neighs, err := ns.Neighs()
	must(err)
	for _, n := range neighs {
		if n.State&unix.NUD_PERMANENT != 0 {
			say("neigh %s dev %s lladdr %s proto %d", n.IP, dev[n.LinkIndex], n.HardwareAddr, n.Protocol)
		}
	}
	proxies, err := ns.Proxies()
	must(err)
	for _, n := range proxies {
		say("neigh proxy %s dev %s proto %d", n.IP, dev[n.LinkIndex], n.Protocol)
	}
	rules, err := ns.Rules()
	must(err)
	for _, r := range rules {
		say("rule %d from %s table %d proto %d", r.Priority, r.Src, r.Table, r.Protocol)
	}
	return lines
}
