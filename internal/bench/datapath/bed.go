package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/netns"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/schema"
)

// bed is a node with one client pod and some server pods, made by plumb's own compiler and reconciler.
type bed struct {
	attach  string
	root    *os.File // the node's network namespace
	far     *os.File // what its uplink leads to
	h       *host.Host
	client  *os.File
	servers []*os.File
	backend []netip.Addr // of the servers
	cgroup  *os.File     // where client and servers run
	links   []io.Closer  // of programs that plumb knows nothing of
}

// The addresses: the first one of the pods' is their gateway's.
var (
	podPrefix  = netip.MustParsePrefix("10.0.0.0/24")
	clientAddr = netip.MustParseAddr("10.0.0.2")
)

const node = "node"

// newBed makes the namespaces and all that path p needs in them. Whatever it made goes with close.
func newBed(ctx context.Context, g *ground, attach string, p path, services, servers int) (b *bed, err error) {
	b = &bed{attach: attach}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
			b = nil
		}
	}()
	if b.root, err = netns.New(nil); err != nil {
		return b, err
	}
	if b.far, err = netns.New(nil); err != nil {
		return b, err
	}
	if err := b.uplink(); err != nil {
		return b, fmt.Errorf("make the uplink: %w", err)
	}
	if b.cgroup, err = g.cgroup(); err != nil {
		return b, err
	}
	dir, err := g.folder()
	if err != nil {
		return b, err
	}
	b.h, err = host.Open(host.Options{Node: filepath.Base(dir), RunDir: filepath.Join(dir, "run"), NetNSDir: filepath.Join(dir, "netns"),
		BPFFS: filepath.Join(g.bpffs, "plumb", filepath.Base(dir)), Cgroup: b.cgroup.Name(), RootNS: fmt.Sprintf("/proc/self/fd/%d", b.root.Fd())})
	if err != nil {
		return b, err
	}
	addr := clientAddr
	for range servers {
		addr = addr.Next()
		b.backend = append(b.backend, addr)
	}
	c, err := compiler.Compile(b.config(p, services), node, p.features(g.features))
	if err != nil {
		return b, err
	}
	if err := reconciler.Converge(ctx, b.h, c.State); err != nil {
		return b, err
	}
	return b, b.open()
}

// open opens the namespaces of the pods, and sets what the measurements need there.
func (b *bed) open() error {
	pod := func(name string) (*os.File, error) {
		f, _, err := netns.Open(filepath.Join(b.h.NetNSDir, name))
		if err != nil {
			return nil, err
		}
		// Time stamps without a random offset: no connection looks older than the one before from that port.
		return f, netns.Do(int(f.Fd()), func() error {
			return write(map[string]string{"net/ipv4/tcp_timestamps": "2", "net/ipv4/ip_local_port_range": "1024 65000"})
		})
	}
	var err error
	if b.client, err = pod("client"); err != nil {
		return err
	}
	for i := range b.backend {
		f, err := pod(serverName(i))
		if err != nil {
			return err
		}
		b.servers = append(b.servers, f)
	}
	return netns.Do(int(b.root.Fd()), func() error {
		return write(map[string]string{
			"net/bridge/bridge-nf-call-iptables":               "0",
			"net/netfilter/nf_conntrack_tcp_timeout_close":     "1",
			"net/netfilter/nf_conntrack_tcp_timeout_time_wait": "1",
		})
	})
}

// close lets the namespaces go; what is in them goes with them. The processes have ended.
func (b *bed) close() error {
	var err error
	for _, f := range append(b.servers, b.client, b.root, b.far) {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	for _, l := range b.links {
		err = errors.Join(err, l.Close())
	}
	if b.h != nil {
		err = errors.Join(err, b.h.Close())
	}
	if b.cgroup != nil {
		err = errors.Join(err, b.cgroup.Close(), os.Remove(b.cgroup.Name()))
	}
	return err
}

func serverName(i int) string { return fmt.Sprintf("server-%d", i) }

// config is the node as a user would write it.
func (b *bed) config(p path, services int) *schema.Config {
	cfg := &schema.Config{
		Nodes:       map[string]schema.Node{node: {Uplinks: []string{"eth0"}, PodCIDRs: []string{podPrefix.String()}}},
		PodDefaults: schema.Pod{Attach: b.attach},
		Pods:        map[string]schema.Pod{"client": {Addresses: []string{clientAddr.String()}}},
	}
	for i, a := range b.backend {
		cfg.Pods[serverName(i)] = schema.Pod{Addresses: []string{a.String()}}
	}
	if !p.programs || services == 0 {
		return cfg
	}
	cfg.Routing.Services = p.services
	cfg.Tuning.Maps.Services = 2 * services
	cfg.Services = make(map[string]schema.Service, services)
	for i := range services {
		s := schema.Service{
			Addresses: []string{serviceAddr(i).String()},
			Ports:     map[string]schema.Port{"http": {Port: 8080}},
		}
		for _, to := range backendsOf(b, i) {
			s.Backends = append(s.Backends, schema.Backend{Address: to.String()})
		}
		cfg.Services[fmt.Sprintf("service-%d", i)] = s
	}
	return cfg
}

// without is a set that lacks a feature.
func without(set *features.Set, f features.Feature) *features.Set {
	less := *set
	less.Features = maps.Clone(set.Features)
	no := false
	less.Features[f] = features.Status{Supported: &no, Reason: "left out for the measurement"}
	return &less
}

// uplink makes the node's device eth0, whose other end is far away.
func (b *bed) uplink() error {
	make := func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name = "eth0"
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(b.far.Fd()))}); err != nil {
			return err
		}
		return up("lo", "eth0")
	}
	if err := netns.Do(int(b.root.Fd()), make); err != nil {
		return err
	}
	return netns.Do(int(b.far.Fd()), func() error { return up("lo", "eth0") })
}

// up sets devices of the calling thread's namespace up.
func up(names ...string) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, name := range names {
		l, err := h.LinkByName(name)
		if err == nil {
			err = h.LinkSetUp(l)
		}
		if err != nil {
			return fmt.Errorf("set %s up: %w", name, err)
		}
	}
	return nil
}

// write sets sysctls in the calling thread's namespace. What this kernel hasn't got is left out.
func write(sysctls map[string]string) error {
	for name, value := range sysctls {
		if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return nil
}
