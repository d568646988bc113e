package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/cilium/ebpf"

	"plumb.internal/plumb/internal/netns"
	"plumb.internal/plumb/reconciler/resource"
)

// inPod runs fn in the namespace of a pod.
func inPod(pod string, fn func() error) error {
	f, _, err := netns.Open(filepath.Join(resource.NetNSDir, pod))
	if err != nil {
		return err
	}
	defer f.Close()
	return netns.Do(int(f.Fd()), fn)
}

// ask connects the client to a service, whose backends are the server pods.
func ask(service int) error {
	for k := range backendsEach {
		var l net.Listener
		err := inPod(serverPod(k), func() (err error) {
			l, err = net.Listen("tcp4", netip.AddrPortFrom(podAddress(k), targetPort).String())
			return err
		})
		if err != nil {
			return err
		}
		defer l.Close()
	}
	return inPod(clientPod, func() error {
		c, err := net.DialTimeout("tcp4", netip.AddrPortFrom(serviceAddress(service), port).String(), 2*time.Second)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// pinned visits the maps of the node.
func (c *child) pinned(visit func(name string, m *ebpf.Map) error) error {
	dir := filepath.Join(c.bpffs, "plumb", "bench", "maps")
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		m, err := ebpf.LoadPinnedMap(filepath.Join(dir, f.Name()), nil)
		if err != nil {
			return fmt.Errorf("open map %s: %w", f.Name(), err)
		}
		err = visit(f.Name(), m)
		m.Close()
		if err != nil {
			return fmt.Errorf("map %s: %w", f.Name(), err)
		}
	}
	return nil
}

// mapBytes notes the memory of the maps, as the kernel accounts it.
func (c *child) mapBytes() error {
	total := uint64(0)
	err := c.pinned(func(_ string, m *ebpf.Map) error {
		info, err := m.Info()
		if err != nil {
			return err
		}
		bytes, ok := info.Memlock()
		if !ok {
			return fmt.Errorf("the kernel doesn't say how large it is")
		}
		total += bytes
		return nil
	})
	c.add("d   bytes of all maps, MB", float64(total)/(1<<20))
	return err
}
