package features

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mountProbes mount in a mount namespace of their own, one over the other.
var mountProbes = []probe{
	{NetNS, "3.8", "creating a network namespace and naming it by a bind mount", tryNetNS},
	{Cgroup2, "4.5", "mounting the cgroup2 hierarchy", tryCgroup2},
}

var baseProbes = []probe{
	{IPv6, "2.6", "adding an IPv6 address to lo", tryIPv6},
}

// tryNetNS names the sandbox in a tmpfs that only its own mount namespace sees.
func tryNetNS(*sandbox) error {
	dir, err := privateMounts()
	if err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		return untried("mount a tmpfs", err)
	}
	name := filepath.Join(dir, "netns")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		return untried("create the mount point", err)
	}
	if err := unix.Mount("/proc/thread-self/ns/net", name, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(name, &st); err != nil {
		return fmt.Errorf("statfs: %w", err)
	}
	if st.Type != unix.NSFS_MAGIC {
		return fmt.Errorf("file system type %#x is not nsfs: %w", st.Type, errAbsent)
	}
	return nil
}

func tryIPv6(s *sandbox) error {
	lo, err := s.up("lo")
	if err != nil {
		return untried("set lo up", err)
	}
	err = s.h.AddrAdd(lo, address("fd00::1/128"))
	if b, _ := os.ReadFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6"); err != nil && string(b) == "1\n" {
		return fmt.Errorf("net.ipv6.conf.default.disable_ipv6 is 1: %w", errOff)
	}
	return err
}

// address parses the constant CIDR of a probe. IPv6 addresses skip duplicate address detection.
func address(cidr string) *netlink.Addr {
	ipnet, err := netlink.ParseIPNet(cidr)
	if err != nil {
		panic(err)
	}
	a := &netlink.Addr{IPNet: ipnet}
	if netip.MustParsePrefix(cidr).Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}
