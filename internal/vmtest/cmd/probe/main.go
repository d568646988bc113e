// Probe writes what the running kernel can do to a file of testdata/features. It is what `plumb features -o json` writes,
// with the facts of the machine made plain: one uplink, a round size of memory, a kernel release without local suffix.
//
//	probe [-private] FILE
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"regexp"
	"runtime"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/reconciler/features"
)

const uplink = "eth0"

func main() {
	private := flag.Bool("private", false, "in a network namespace of its own with a veth as uplink, on a machine that isn't made for this")
	flag.Parse()
	if err := record(flag.Arg(0), *private); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func record(path string, private bool) error {
	runtime.LockOSThread() // the thread is thrown away with the process
	if private {
		if err := enterPrivate(); err != nil {
			return err
		}
	}
	set, err := features.Probe(context.Background())
	if err != nil {
		return err
	}
	set.Note = "recorded on a virtual machine"
	if private {
		set.Note = "recorded in a network namespace of its own, with a veth as uplink"
		set.Kernel = regexp.MustCompile(`^[0-9.]+`).FindString(set.Kernel)
	}
	const gib = 1 << 30
	set.Host.MemoryBytes = (set.Host.MemoryBytes + gib - 1) / gib * gib
	device, ok := set.Host.Devices[uplink]
	if !ok {
		return fmt.Errorf("this machine has no %s", uplink)
	}
	set.Host.Devices = map[string]features.Device{uplink: device}
	if err := set.Validate(); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := set.WriteJSON(f); err != nil {
		return err
	}
	return f.Close()
}

func enterPrivate() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare network namespace: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = uplink
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "peer"}); err != nil {
		return fmt.Errorf("create uplink: %w", err)
	}
	return nil
}
