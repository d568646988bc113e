package host

import (
	"errors"
	"fmt"
	"sync"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// conn is one rtnetlink socket. It stays in the namespace it was made in, whichever thread uses it.
//
// The netlink library could read for us, but it takes a fresh 64 KiB buffer for every message it receives, and parses
// statistics by reflection: with a thousand namespaces that costs several times what the kernel takes.
type conn struct {
	mu  sync.Mutex
	fd  int // -1 once closed
	seq uint32
}

const (
	recvSize = 64 << 10 // the kernel fills at most 32 KiB at a time
	retries  = 20       // of a dump that a change interrupted
)

// newConn opens a socket in the calling thread's namespace.
func newConn() (*conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind a netlink socket: %w", err)
	}
	// Best effort, both: a reason in words with an errno, and an end should the kernel never answer.
	_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 60})
	return &conn{fd: fd}, nil
}

func (c *conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd >= 0 {
		unix.Close(c.fd)
		c.fd = -1
	}
}

// netns opens the namespace that the socket lives in; the caller closes the descriptor.
func (c *conn) netns() (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return -1, errClosed
	}
	return unix.IoctlRetInt(c.fd, unix.SIOCGSKNS)
}

var (
	errClosed      = errors.New("the namespace has been let go")
	errInterrupted = errors.New("the kernel's tables keep changing while they are read")
)

// dump sends req and calls f with every message of the answer. The message is only valid during the call. A dump that the
// kernel says is inconsistent is begun again, after a call of reset.
func (c *conn) dump(req *nl.NetlinkRequest, reset func(), f func(msg []byte) error) error {
	for range retries {
		reset()
		err := c.once(req, f)
		if !errors.Is(err, errInterrupted) {
			return err
		}
	}
	return errInterrupted
}

// once sends req and reads to the end of the answer: an acknowledgement, an error, or the end of a dump.
func (c *conn) once(req *nl.NetlinkRequest, f func(msg []byte) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return errClosed
	}
	buf := buffers.Get().(*[recvSize]byte)
	defer buffers.Put(buf)
	c.seq++
	req.Seq = c.seq
	if err := unix.Sendto(c.fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("send to the kernel: %w", err)
	}
	var broken error // of f; the rest of the answer is read all the same
	interrupted := false
	for {
		n, _, err := unix.Recvfrom(c.fd, buf[:], 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("receive from the kernel: %w", err)
		}
		for b := buf[:n]; len(b) >= unix.NLMSG_HDRLEN; {
			size := int(nl.NativeEndian().Uint32(b))
			if size < unix.NLMSG_HDRLEN || size > len(b) {
				return errors.New("the kernel sent a torn message")
			}
			kind, flags, seq := nl.NativeEndian().Uint16(b[4:]), nl.NativeEndian().Uint16(b[6:]), nl.NativeEndian().Uint32(b[8:])
			msg := b[unix.NLMSG_HDRLEN:size]
			b = b[min((size+3)&^3, len(b)):]
			if seq != c.seq {
				continue // the rest of an answer that nobody waits for any more
			}
			interrupted = interrupted || flags&unix.NLM_F_DUMP_INTR != 0
			switch kind {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				if err := status(kind, flags, msg); err != nil {
					return err
				}
				if interrupted {
					return errInterrupted
				}
				return broken
			default:
				if f != nil && broken == nil {
					broken = f(msg)
				}
				if flags&unix.NLM_F_MULTI == 0 && req.Flags&unix.NLM_F_ACK == 0 {
					return broken
				}
			}
		}
	}
}

var buffers = sync.Pool{New: func() any { return new([recvSize]byte) }}

// status is the error that ends an answer, with the kernel's words where it has any.
func status(kind, flags uint16, msg []byte) error {
	if len(msg) < 4 {
		return nil
	}
	code := int32(nl.NativeEndian().Uint32(msg))
	if code == 0 {
		return nil
	}
	errno := unix.Errno(-code)
	if kind != unix.NLMSG_ERROR || flags&unix.NLM_F_ACK_TLVS == 0 || len(msg) < 4+unix.NLMSG_HDRLEN {
		return errno
	}
	skip := 4 + unix.NLMSG_HDRLEN
	if flags&unix.NLM_F_CAPPED == 0 {
		skip = 4 + (int(nl.NativeEndian().Uint32(msg[4:]))+3)&^3
	}
	if skip > len(msg) {
		return errno
	}
	for a := range attrs(msg[skip:]) {
		if a.kind == nl.NLMSGERR_ATTR_MSG {
			return fmt.Errorf("%w: %s", errno, text(a.value))
		}
	}
	return errno
}

// attr is one netlink attribute. Its value lies in the receive buffer: copy what is kept.
type attr struct {
	kind  uint16
	value []byte
}

// attrs walks a list of attributes.
func attrs(b []byte) func(yield func(attr) bool) {
	return func(yield func(attr) bool) {
		for len(b) >= unix.SizeofRtAttr {
			size := int(nl.NativeEndian().Uint16(b))
			if size < unix.SizeofRtAttr || size > len(b) {
				return
			}
			if !yield(attr{nl.NativeEndian().Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER), b[unix.SizeofRtAttr:size]}) {
				return
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}

func (a attr) u8() uint8 {
	if len(a.value) < 1 {
		return 0
	}
	return a.value[0]
}

func (a attr) u16() uint16 {
	if len(a.value) < 2 {
		return 0
	}
	return nl.NativeEndian().Uint16(a.value)
}

func (a attr) u32() uint32 {
	if len(a.value) < 4 {
		return 0
	}
	return nl.NativeEndian().Uint32(a.value)
}

func (a attr) text() string { return text(a.value) }

func text(b []byte) string {
	for len(b) > 0 && b[len(b)-1] == 0 {
		b = b[:len(b)-1]
	}
	return string(b)
}
