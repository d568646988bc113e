// Package firewall looks at what others have in a namespace that its packets pass: rules of nftables and of legacy iptables,
// and IPsec policies. It only reads, in the namespace of the calling thread.
package firewall

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Others names what forwarded packets pass that isn't plumb's, in order: chains that have rules, or drop what has none, and
// IPsec policies; and those chains among them that translate addresses. What can't be asked for, as the kernel lacks it or the
// caller its rights, isn't there.
func Others() (names, nat []string, err error) {
	if names, nat, err = nftChains(); err != nil {
		return nil, nil, fmt.Errorf("list others' chains of nftables: %w", err)
	}
	for _, v6 := range []bool{false, true} {
		legacy, translating := legacyChains(v6)
		names, nat = append(names, legacy...), append(nat, translating...)
	}
	some, err := ipsec()
	if err != nil {
		return nil, nil, fmt.Errorf("list IPsec policies: %w", err)
	}
	if some {
		names = append(names, "IPsec policies")
	}
	slices.Sort(names)
	slices.Sort(nat)
	return names, nat, nil
}

// lacking are the kernel's ways to say that it hasn't got something, or that the caller may not know.
var lacking = []error{unix.EPERM, unix.EACCES, unix.EINVAL, unix.ENOENT, unix.EOPNOTSUPP, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT}

func lacks(err error) bool {
	return slices.ContainsFunc(lacking, func(l error) bool { return errors.Is(err, l) })
}

// ipsec reports whether a policy takes packets of whatever device. Those of sockets, and those that a device of their own leads
// packets to, concern nobody else.
func ipsec() (some bool, err error) {
	h, err := netlink.NewHandle(unix.NETLINK_XFRM)
	if err != nil {
		return false, nil // the kernel has none
	}
	defer h.Close()
	var policies []netlink.XfrmPolicy
	for range 5 {
		if policies, err = h.XfrmPolicyList(netlink.FAMILY_ALL); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	if err != nil && !lacks(err) {
		return false, err
	}
	return slices.ContainsFunc(policies, func(p netlink.XfrmPolicy) bool {
		return p.Dir <= netlink.XFRM_DIR_FWD && p.Ifid == 0 && (len(p.Tmpls) > 0 || p.Action == netlink.XFRM_POLICY_BLOCK)
	}), nil
}
