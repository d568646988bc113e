package host

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Tracked is what the kernel's connection table of the root namespace holds.
type Tracked struct {
	Available bool `json:"available"` // the kernel has one, and a way to list it
	Entries   int  `json:"entries"`
	Most      int  `json:"most"`
	Pods      int  `json:"of_pods"` // with an end in one of the ranges that were asked for
}

// Tracked reads the connection table. What passes it by, because eBPF programs take it or a rule says so, isn't in there.
func (h *Host) Tracked(pods []netip.Prefix) (t Tracked, err error) {
	err = h.root.Do(func() error {
		t, err = tracked(pods)
		return err
	})
	return t, err
}

// tracked reads that of the calling thread's namespace.
func tracked(pods []netip.Prefix) (t Tracked, err error) {
	most, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return t, nil
	case err != nil:
		return t, fmt.Errorf("read the connection table's size: %w", err)
	}
	if t.Most, err = strconv.Atoi(strings.TrimSpace(string(most))); err != nil {
		return t, fmt.Errorf("read the connection table's size: %w", err)
	}
	c, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return t, fmt.Errorf("open the connection table: %w", err)
	}
	defer c.Close()
	ofPods := func(ip net.IP) bool {
		a, ok := netip.AddrFromSlice(ip)
		return ok && slices.ContainsFunc(pods, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) })
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := c.ConntrackTableList(netlink.ConntrackTable, family)
		switch {
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EPROTONOSUPPORT):
			return t, nil // no ctnetlink
		case err != nil:
			return t, fmt.Errorf("list the connection table: %w", err)
		}
		t.Entries += len(flows)
		for _, f := range flows {
			if slices.ContainsFunc([]net.IP{f.Forward.SrcIP, f.Forward.DstIP, f.Reverse.SrcIP, f.Reverse.DstIP}, ofPods) {
				t.Pods++
			}
		}
	}
	t.Available = true
	return t, nil
}
