package reconciler

import (
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
)

func TestPending(t *testing.T) {
	const up, carrier = unix.IFF_UP, unix.IFF_UP | unix.IFF_LOWER_UP
	for _, c := range []struct {
		kind  string
		flags uint32
		state netlink.LinkOperState
		want  bool
	}{
		{"bridge", up, netlink.OperUnknown, true}, // fresh, no port yet
		{"bridge", up, netlink.OperDown, false},
		{"bridge", carrier, netlink.OperDown, true}, // its first port has come up
		{"bridge", carrier, netlink.OperUp, false},
		{"bridge", up, netlink.OperUp, true}, // its last port has gone
		{"bridge", 0, netlink.OperUnknown, false},
		{"dummy", carrier, netlink.OperUnknown, false},
	} {
		l := &host.Link{Kind: c.kind}
		l.RawFlags, l.OperState = c.flags, c.state
		if got := pending(l); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}
