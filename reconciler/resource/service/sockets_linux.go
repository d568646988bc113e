package service

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
)

// What linux/sock_diag.h and linux/inet_diag.h say.
const (
	sockDiagByFamily = 20
	sockDestroy      = 21
	connected        = 1 << 1 // the state of a connected UDP socket is TCP_ESTABLISHED
	diagRequest      = 56     // family, protocol, extensions, padding, states; then the socket's id
	diagID           = 48     // ports, addresses, device, cookie
	diagCookie       = 40     // in the id
)

// destroy ends the connected UDP sockets that have one of these cookies, in the node's namespaces: whoever reads
// or waits is told ECONNABORTED, and is no longer connected; nobody else would ever tell that the peer is gone.
func destroy(ctx context.Context, h *host.Host, cookies map[uint64]bool) error {
	names, err := h.Namespaces(ctx)
	if err != nil {
		return err
	}
	for _, name := range names {
		ns, err := h.NS(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went in this apply, with its sockets
		}
		if err == nil {
			err = ns.Do(func() error { return destroyHere(h, name, cookies) })
		}
		switch {
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			h.Warn("this kernel can't end UDP sockets (CONFIG_INET_DIAG_DESTROY, CONFIG_INET_UDP_DIAG): %d that are connected to "+
				"removed backends go on sending to them: restart their programs", len(cookies))
			return nil
		case err != nil:
			return fmt.Errorf("destroy UDP sockets in namespace %q: %w", name, err)
		}
	}
	return nil
}

// destroyHere does it for the namespace of the calling thread.
func destroyHere(h *host.Host, name string, cookies map[uint64]bool) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := diag(sockDiagByFamily, unix.NLM_F_DUMP, family, make([]byte, diagID))
		if err != nil {
			return err
		}
		for _, s := range sockets {
			if len(s) < 4+diagID {
				continue
			}
			id := s[4 : 4+diagID]
			if !cookies[binary.NativeEndian.Uint64(id[diagCookie:])] {
				continue
			}
			h.Wrote("end a UDP socket in namespace %q", name)
			_, err := diag(sockDestroy, unix.NLM_F_ACK, family, id)
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
	}
	return nil
}

// diag sends one request about connected UDP sockets; the id says which.
func diag(kind, flags int, family uint8, id []byte) ([][]byte, error) {
	req := nl.NewNetlinkRequest(kind, flags)
	data := make([]byte, diagRequest-diagID, diagRequest)
	data[0], data[1] = family, unix.IPPROTO_UDP
	binary.NativeEndian.PutUint32(data[4:], connected)
	req.AddRawData(append(data, id...))
	answers, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	if errors.Is(err, nl.ErrDumpInterrupted) {
		err = nil // sockets came and went meanwhile, none of those that are looked for
	}
	return answers, err
}
