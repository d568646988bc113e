package lanes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/netns"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/schema"
)

// Uplink is the node's device that leads to Far, and what that calls its own.
const Uplink = "eth0"

// Bed is a node, made by plumb's own compiler and reconciler, and a host that its uplink leads to.
type Bed struct {
	Root   *os.File // the node's network namespace
	Far    *os.File // what its uplink leads to
	host   *host.Host
	cgroup *os.File    // where client and servers run
	owned  []io.Closer // what goes with the bed
}

// NewBed makes the namespaces, with a pair of devices between them that are up. Whatever is made goes with Close.
func (g *Ground) NewBed() (b *Bed, err error) {
	b = &Bed{}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
			b = nil
		}
	}()
	if b.Root, err = netns.New(nil); err != nil {
		return b, err
	}
	if b.Far, err = netns.New(nil); err != nil {
		return b, err
	}
	if err := b.uplink(max(g.Queues, 1)); err != nil {
		return b, fmt.Errorf("make the uplink: %w", err)
	}
	g.made++
	name := fmt.Sprintf("bed-%d", g.made)
	if b.cgroup, err = g.cgroup(name); err != nil {
		return b, err
	}
	dir := filepath.Join(g.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "netns"), 0o755), os.Mkdir(filepath.Join(dir, "run"), 0o755)); err != nil {
		return b, err
	}
	b.host, err = host.Open(host.Options{Node: name, RunDir: filepath.Join(dir, "run"), NetNSDir: filepath.Join(dir, "netns"),
		BPFFS: filepath.Join(g.bpffs, "plumb", name), Cgroup: b.cgroup.Name(), RootNS: fmt.Sprintf("/proc/self/fd/%d", b.Root.Fd())})
	return b, err
}

// Converge makes the bed what the configuration says of a node.
func (b *Bed) Converge(ctx context.Context, cfg *schema.Config, node string, set *features.Set) error {
	c, err := compiler.Compile(cfg, node, set)
	if err != nil {
		return err
	}
	if err := reconciler.Converge(ctx, b.host, c.State); err != nil {
		return err
	}
	return netns.Do(int(b.Root.Fd()), func() error {
		return write(map[string]string{
			"net/bridge/bridge-nf-call-iptables":               "0",
			"net/netfilter/nf_conntrack_tcp_timeout_close":     "1",
			"net/netfilter/nf_conntrack_tcp_timeout_time_wait": "1",
		})
	})
}

// Pod is the namespace of a pod. It is closed with the bed.
func (b *Bed) Pod(name string) (*os.File, error) {
	f, _, err := netns.Open(filepath.Join(b.host.NetNSDir, name))
	if err != nil {
		return nil, err
	}
	b.Own(f)
	return f, b.Ends(f)
}

// Ends sets what the measurements need in a namespace where one end of them is.
func (b *Bed) Ends(f *os.File) error {
	// Time stamps without a random offset: no connection looks older than the one before from that port.
	return netns.Do(int(f.Fd()), func() error {
		return write(map[string]string{"net/ipv4/tcp_timestamps": "2", "net/ipv4/ip_local_port_range": "1024 65000"})
	})
}

// Own has the bed close c when it goes.
func (b *Bed) Own(c io.Closer) { b.owned = append(b.owned, c) }

// Close lets the namespaces go; what is in them goes with them. The processes have ended.
func (b *Bed) Close() error {
	var err error
	for _, f := range []*os.File{b.Root, b.Far} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	for _, c := range b.owned {
		err = errors.Join(err, c.Close())
	}
	if b.host != nil {
		err = errors.Join(err, b.host.Close())
	}
	if b.cgroup != nil {
		err = errors.Join(err, b.cgroup.Close(), os.Remove(b.cgroup.Name()))
	}
	return err
}

// uplink makes the node's uplink, whose other end is far away.
func (b *Bed) uplink(queues int) error {
	pair := func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.NumTxQueues = Uplink, queues
		if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: Uplink, PeerNamespace: netlink.NsFd(int(b.Far.Fd()))}); err != nil {
			return err
		}
		return up("lo", Uplink)
	}
	if err := netns.Do(int(b.Root.Fd()), pair); err != nil {
		return err
	}
	return netns.Do(int(b.Far.Fd()), func() error { return up("lo", Uplink) })
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

// Counted is how many packets the programs have counted for a reason so far; 0 where there are none.
func (b *Bed) Counted(reason string) (n uint64, err error) {
	pins, err := filepath.Glob(filepath.Join(b.host.BPFFS, "maps", "counters:*"))
	for _, pin := range pins {
		m, err := ebpf.LoadPinnedMap(pin, nil)
		if err != nil {
			return 0, fmt.Errorf("open the counters: %w", err)
		}
		var cpus []bpf.Counted
		err = m.Lookup(uint32(slices.Index(bpf.Counters[:], reason)), &cpus)
		m.Close()
		if err != nil {
			return 0, fmt.Errorf("read counter %s: %w", reason, err)
		}
		for _, c := range cpus {
			n += c.Packets
		}
	}
	return n, err
}
