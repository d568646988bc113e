package watch

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/netns"
)

// recvBuffer is what the kernel may hold for us while we are at work: a pod is about twenty messages.
const recvBuffer = 8 << 20

// Kernel hears what happens to the kernel's tables, in the node's root namespace and in those of its pods, by one socket a
// protocol, and to the names of namespaces and pins. It filters: a full look costs milliseconds, and a busy machine has
// thousands of events a second that are none of plumb's business.
type Kernel struct {
	// C says that there is something to Take. It never blocks the watcher.
	C <-chan struct{}

	h       *host.Host
	sources []*source
	inotify *source
	wg      sync.WaitGroup

	mu      sync.Mutex
	changed chan<- struct{}
	pending Events
	names   map[int32]string   // of pods, by the number that events carry
	numbers map[netns.ID]int32 // of namespaces that have been asked for
}

// Events are what was heard since the last time.
type Events struct {
	Lost bool // the kernel had to drop some: anything may have changed
	List []Event
}

// Empty reports whether nothing was heard.
func (e Events) Empty() bool { return !e.Lost && len(e.List) == 0 }

// maxEvents is what is kept in detail; with more of them, everything is looked at anyway.
const maxEvents = 1024

// source is one descriptor that events come from.
type source struct {
	file *os.File
	raw  syscall.RawConn
	read func(fd int) (again bool) // one piece; called with the lock held
}

// NewKernel begins to listen. Look says which namespaces are the node's.
func NewKernel(h *host.Host) (*Kernel, error) {
	c := make(chan struct{}, 1)
	k := &Kernel{C: c, changed: c, h: h, names: map[int32]string{}, numbers: map[netns.ID]int32{}}
	root, err := h.NS("")
	if err != nil {
		return nil, fmt.Errorf("listen to the kernel: %w", err)
	}
	if err := root.Do(k.listen); err != nil {
		k.Close()
		return nil, fmt.Errorf("listen to the kernel: %w", err)
	}
	for _, s := range k.sources {
		k.wg.Go(func() {
			// Read calls again whenever there is more, and returns once the file is closed.
			_ = s.raw.Read(func(fd uintptr) bool {
				k.drain(s, int(fd))
				return false
			})
		})
	}
	return k, nil
}

// Close ends the listening.
func (k *Kernel) Close() {
	for _, s := range k.sources {
		s.file.Close()
	}
	k.wg.Wait()
}

// Take returns what was heard up to now: everything that the kernel did before the call is in it. Whoever observes the
// kernel after it has seen all of that.
func (k *Kernel) Take() Events {
	for _, s := range k.sources {
		_ = s.raw.Control(func(fd uintptr) { k.drain(s, int(fd)) })
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.pending
	k.pending = Events{}
	select {
	case <-k.C:
	default:
	}
	return e
}

// drain reads all that a source has.
func (k *Kernel) drain(s *source, fd int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for s.read(fd) {
	}
	if !k.pending.Empty() {
		select {
		case k.changed <- struct{}{}:
		default:
		}
	}
}

// add notes an event.
func (k *Kernel) add(e Event) {
	if len(k.pending.List) >= maxEvents {
		k.pending.Lost = true
		return
	}
	e.At = time.Now()
	k.pending.List = append(k.pending.List, e)
}

// listen opens the sockets; the calling thread is in the root namespace.
func (k *Kernel) listen() error {
	if err := k.socket(unix.NETLINK_ROUTE, rtGroups, k.routeMessage); err != nil {
		return err
	}
	// A kernel without nftables has none that could change.
	_ = k.socket(unix.NETLINK_NETFILTER, []int{unix.NFNLGRP_NFTABLES}, k.nftMessage)
	return k.folders()
}

// socket opens a netlink socket that hears some groups, of every namespace that has a number here.
func (k *Kernel) socket(protocol int, groups []int, message func(m message)) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, recvBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, recvBuffer) // as much as is allowed
	}
	err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	for _, g := range groups {
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, g)
		}
	}
	if err == nil && protocol == unix.NETLINK_ROUTE {
		err = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 1)
	}
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("join the netlink groups: %w", err)
	}
	buf, control := make([]byte, 64<<10), make([]byte, 64)
	return k.source(fd, func(fd int) bool {
		n, c, _, from, err := unix.Recvmsg(fd, buf, control, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			return true
		case errors.Is(err, unix.ENOBUFS): // the buffer ran over
			k.pending.Lost = true
			return true
		case err != nil:
			return false
		}
		if a, ok := from.(*unix.SockaddrNetlink); !ok || a.Pid != 0 { // any process may send here
			return true
		}
		messages(buf[:n], namespaceOf(control[:c]), message)
		return true
	})
}

func (k *Kernel) source(fd int, read func(fd int) bool) error {
	s := &source{file: os.NewFile(uintptr(fd), "events"), read: read}
	var err error
	if s.raw, err = s.file.SyscallConn(); err != nil {
		s.file.Close()
		return err
	}
	k.sources = append(k.sources, s)
	return nil
}

// namespaceOf is the number of the namespace that a message is from; -1 for the socket's own.
func namespaceOf(control []byte) int32 {
	parts, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return -1
	}
	for _, p := range parts {
		if p.Header.Level == unix.SOL_NETLINK && p.Header.Type == unix.NETLINK_LISTEN_ALL_NSID && len(p.Data) >= 4 {
			return int32(native.Uint32(p.Data))
		}
	}
	return -1
}
