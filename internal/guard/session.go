package guard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/netns"
)

// sessions finds the SSH connections that this process may have been started over, the likeliest first. sudo drops the
// variable, so the processes above are asked too; a shell in tmux or screen has that of another day.
func sessions() (all []Lifeline) {
	add := func(value string) {
		if l, ok := parseSession(value); ok && !slices.Contains(all, l) {
			all = append(all, l)
		}
	}
	add(os.Getenv(sessionVariable))
	for pid := os.Getppid(); pid > 1; pid = netns.Parent(pid) {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil {
			continue
		}
		for v := range strings.SplitSeq(string(env), "\x00") {
			if value, ok := strings.CutPrefix(v, sessionVariable+"="); ok {
				add(value)
			}
		}
	}
	return all
}

const sessionVariable = "SSH_CONNECTION"

// alive puts the sessions in front whose connection is there; that of mosh is over as soon as it has begun.
func alive(h *host.Host, all []Lifeline) []Lifeline {
	slices.SortStableFunc(all, func(a, b Lifeline) int {
		switch first := a.open(h); {
		case first == b.open(h):
			return 0
		case first:
			return -1
		}
		return 1
	})
	return all
}

// open reports whether the session's connection is there.
func (l Lifeline) open(h *host.Host) bool {
	ns, err := h.NS("")
	if err != nil || l.RemotePort == 0 {
		return false
	}
	there, _, err := l.connection(ns)
	return err == nil && there
}

// connection looks at the session's own, see below.
func (l Lifeline) connection(ns *host.NS) (there bool, deaf int, err error) {
	return connection(ns, netip.AddrPortFrom(l.Local, l.LocalPort), netip.AddrPortFrom(l.Remote, l.RemotePort))
}

// parseSession reads "192.0.2.7 50022 192.0.2.1 22": the peer, and this end.
func parseSession(value string) (Lifeline, bool) {
	w := strings.Fields(value)
	if len(w) != 4 {
		return Lifeline{}, false
	}
	peer, errPeer := netip.ParseAddrPort(net.JoinHostPort(w[0], w[1]))
	here, errHere := netip.ParseAddrPort(net.JoinHostPort(w[2], w[3]))
	if errPeer != nil || errHere != nil || peer.Addr().Unmap().IsLoopback() {
		return Lifeline{}, false
	}
	return Lifeline{Name: "the peer of this session, " + peer.Addr().String(),
		Remote: peer.Addr().Unmap().WithZone(""), RemotePort: peer.Port(), Dev: peer.Addr().Zone(),
		Local: here.Addr().Unmap().WithZone(""), LocalPort: here.Port()}, true
}

// What linux/sock_diag.h and linux/inet_diag.h say.
const (
	sockDiagByFamily = 20
	diagRequest      = 56 // family, protocol, extensions, padding, states; then the socket's id
	diagID           = 8  // ports, addresses, device, cookie
	anyCookie        = 1<<64 - 1
)

// unheard is how often in a row something is sent again before its receiver counts as gone: 0.2, 0.4, 0.8 and 1.6 s, if not
// longer, have passed by then.
const unheard = 4

// connection looks at a TCP connection of the node's own. It is there if the kernel knows it; deaf says since how many
// attempts nobody hears what is sent over it. Over an idle one nothing is sent, so nothing is known.
func connection(ns *host.NS, here, peer netip.AddrPort) (there bool, deaf int, err error) {
	data := make([]byte, diagRequest)
	data[0], data[1] = unix.AF_INET, unix.IPPROTO_TCP
	if peer.Addr().Is6() {
		data[0] = unix.AF_INET6
	}
	binary.NativeEndian.PutUint32(data[4:], 1<<32-1) // in whatever state
	id := data[diagID:]
	binary.BigEndian.PutUint16(id, here.Port())
	binary.BigEndian.PutUint16(id[2:], peer.Port())
	copy(id[4:20], here.Addr().AsSlice())
	copy(id[20:36], peer.Addr().AsSlice())
	binary.NativeEndian.PutUint64(id[40:], anyCookie)
	var answers [][]byte
	err = ns.Do(func() (err error) {
		req := nl.NewNetlinkRequest(sockDiagByFamily, 0)
		req.AddRawData(data)
		answers, err = req.Execute(unix.NETLINK_INET_DIAG, sockDiagByFamily)
		return err
	})
	switch {
	case errors.Is(err, unix.ENOENT):
		return false, 0, nil
	case err != nil:
		return false, 0, fmt.Errorf("look for the connection from %s: %w", peer, err)
	case len(answers) != 1 || len(answers[0]) < 4:
		return false, 0, fmt.Errorf("look for the connection from %s: the kernel gave %d answers", peer, len(answers))
	}
	// Of segments that are sent again, or of probes where there is no way to send one, as long as nothing comes back.
	return true, int(answers[0][3]), nil
}
