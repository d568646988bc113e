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
	everyState       = 1<<32 - 1
	diagRequest      = 56 // family, protocol, extensions, padding, states; then the socket's id
	diagID           = 48 // ports, addresses, device, cookie
	diagCookie       = 40 // in the id
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
	return eachSocket(connected, func(family uint8, cookie uint64, id []byte) error {
		if !cookies[cookie] {
			return nil
		}
		h.Wrote("end a UDP socket in namespace %q", name)
		_, err := diag(sockDestroy, unix.NLM_F_ACK, family, connected, id)
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	})
}

// openSockets returns the cookies of the UDP sockets in the node's namespaces; nil where the kernel doesn't list them, or
// where the socket programs act for other namespaces too.
func openSockets(ctx context.Context, h *host.Host) (map[uint64]bool, error) {
	known, err := h.BPFMaps("namespaces")
	if err != nil || len(known) == 0 {
		return nil, err
	}
	names, err := h.Namespaces(ctx)
	if err != nil {
		return nil, err
	}
	cookies := map[uint64]bool{}
	for _, name := range names {
		ns, err := h.NS(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = ns.Do(func() error {
				return eachSocket(everyState, func(_ uint8, cookie uint64, _ []byte) error {
					cookies[cookie] = true
					return nil
				})
			})
		}
		switch {
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("list UDP sockets in namespace %q: %w", name, err)
		}
	}
	return cookies, nil
}

// eachSocket visits the UDP sockets in the calling thread's namespace that are in some states.
func eachSocket(states uint32, visit func(family uint8, cookie uint64, id []byte) error) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := diag(sockDiagByFamily, unix.NLM_F_DUMP, family, states, make([]byte, diagID))
		if err != nil {
			return err
		}
		for _, s := range sockets {
			if len(s) < 4+diagID {
				continue
			}
			id := s[4 : 4+diagID]
			if err := visit(family, binary.NativeEndian.Uint64(id[diagCookie:]), id); err != nil {
				return err
			}
		}
	}
	return nil
}

// diag sends one request about UDP sockets; the states and the id say which.
func diag(kind, flags int, family uint8, states uint32, id []byte) ([][]byte, error) {
	req := nl.NewNetlinkRequest(kind, flags)
	data := make([]byte, diagRequest-diagID, diagRequest)
	data[0], data[1] = family, unix.IPPROTO_UDP
	binary.NativeEndian.PutUint32(data[4:], states)
	req.AddRawData(append(data, id...))
	answers, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	if errors.Is(err, nl.ErrDumpInterrupted) {
		err = nil // sockets came and went meanwhile, none of those that are looked for
	}
	return answers, err
}
