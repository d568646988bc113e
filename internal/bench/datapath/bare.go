package main

import (
	"context"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/netns"
)

// bareRedirect sends all that comes from the client to the server and the other way round, without a look at it: the
// least that any program for this could cost.
func bareRedirect(_ context.Context, b *bed, _ int) error {
	if b.attach != "veth" && b.attach != "netkit" {
		return fmt.Errorf("%s pods have no peer to redirect to", b.attach)
	}
	client, err := hostEnd(b.client)
	if err != nil {
		return err
	}
	server, err := hostEnd(b.servers[0])
	if err != nil {
		return err
	}
	return netns.Do(int(b.Root.Fd()), func() error {
		for _, way := range [][2]int{{client, server}, {server, client}} {
			p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
				asm.Mov.Imm(asm.R1, int32(way[1])),
				asm.Mov.Imm(asm.R2, 0),
				asm.FnRedirectPeer.Call(),
				asm.Return(),
			}})
			if err != nil {
				return fmt.Errorf("load a bare redirect: %w", err)
			}
			defer p.Close()
			l, err := link.AttachTCX(link.TCXOptions{Interface: way[0], Program: p, Attach: ebpf.AttachTCXIngress})
			if err != nil {
				return fmt.Errorf("attach a bare redirect: %w", err)
			}
			b.Own(l)
		}
		return nil
	})
}

// hostEnd is the device in the node's namespace that leads to a pod.
func hostEnd(pod *os.File) (index int, err error) {
	err = netns.Do(int(pod.Fd()), func() error {
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := h.LinkByName("eth0")
		if err == nil {
			index = l.Attrs().ParentIndex
		}
		return err
	})
	return index, err
}
