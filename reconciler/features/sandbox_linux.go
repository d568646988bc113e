package features

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/netns"
)

// sandbox is an anonymous network namespace that exists as long as the probes of one theme run.
type sandbox struct {
	h       *netlink.Handle
	parents int
}

// inSandbox runs try on a thread in a network namespace of its own. The thread ends with it, and the
// namespace too: nothing that try makes in it can outlive it, whatever happens.
func inSandbox(try func(*sandbox) error) error {
	entered := false
	f, err := netns.New(func() error {
		entered = true
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return untried("open rtnetlink", err)
		}
		defer h.Close()
		return try(&sandbox{h: h})
	})
	if f != nil {
		f.Close()
	}
	if err != nil && !entered {
		return untried("make a network namespace", err)
	}
	return err
}

// parent makes a veth pair to put other links on, and returns its first end, up.
func (s *sandbox) parent() (netlink.Link, error) {
	s.parents++
	name := fmt.Sprintf("parent%d", s.parents)
	if err := s.h.LinkAdd(vethPair(name, name+"peer")); err != nil {
		return nil, untried("create a veth pair to try it on", err)
	}
	l, err := s.up(name)
	if err != nil {
		return nil, untried("set the veth pair up", err)
	}
	return l, nil
}

// up sets the named link up and returns it.
func (s *sandbox) up(name string) (netlink.Link, error) {
	l, err := s.h.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", name, err)
	}
	if err := s.h.LinkSetUp(l); err != nil {
		return nil, fmt.Errorf("set link %s up: %w", name, err)
	}
	return l, nil
}

// privateMounts gives the thread of the probe a mount namespace of its own as well, and returns a folder to mount on.
func privateMounts() (string, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return "", untried("unshare mount namespace", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", untried("make mounts private", err)
	}
	return "/proc/sys", nil // a folder that is always there
}
