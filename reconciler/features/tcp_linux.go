package features

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// bigSize is above what links allow without BIG TCP.
const bigSize = 192 << 10

var tcpProbes = []probe{
	// Kernels without it take the IPv4 attributes without a word, so read back.
	{BigTCP4, "6.3", "setting gso_ipv4_max_size and gro_ipv4_max_size above 64 KiB and reading them back", func(s *sandbox) error {
		return s.bigTCP(s.h.LinkSetGSOIPv4MaxSize, s.h.LinkSetGROIPv4MaxSize, func(a *netlink.LinkAttrs) (gso, gro uint32) {
			return a.GSOIPv4MaxSize, a.GROIPv4MaxSize
		})
	}},
	{BigTCP6, "5.19", "setting gso_max_size and gro_max_size above 64 KiB and reading them back", func(s *sandbox) error {
		return s.bigTCP(s.h.LinkSetGSOMaxSize, s.h.LinkSetGROMaxSize, func(a *netlink.LinkAttrs) (gso, gro uint32) {
			return a.GSOMaxSize, a.GROMaxSize
		})
	}},
	{TCPBBR, "4.9", "setting a socket's congestion control to bbr", func(*sandbox) error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return untried("open a socket", err)
		}
		defer unix.Close(fd)
		return unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "bbr")
	}},
}

func (s *sandbox) bigTCP(setGSO, setGRO func(netlink.Link, int) error, read func(*netlink.LinkAttrs) (gso, gro uint32)) error {
	l, err := s.parent()
	if err != nil {
		return err
	}
	if err := setGSO(l, bigSize); err != nil {
		return fmt.Errorf("set gso size: %w", err)
	}
	if err := setGRO(l, bigSize); err != nil {
		return fmt.Errorf("set gro size: %w", err)
	}
	if l, err = s.h.LinkByName(l.Attrs().Name); err != nil {
		return untried("read the link back", err)
	}
	if gso, gro := read(l.Attrs()); gso != bigSize || gro != bigSize {
		return fmt.Errorf("read back gso %d, gro %d: %w", gso, gro, errAbsent)
	}
	return nil
}
