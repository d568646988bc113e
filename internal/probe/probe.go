// Package probe asks whether something can be reached from inside a network namespace, by real sockets.
//
//	probe.go    Probe: one question, and what may come back
//	dial.go     sockets that are made in a namespace and waited for on Go's poller: no thread is held
//	udp.go      a request and its answer
//	http.go     a request and its answer by HTTP
//	icmp.go     an echo
//	resolve.go  names, asked of the name servers of a namespace
//
// A service whose addresses are translated at the socket is seen from a cgroup: whoever probes one has joined the node's
// (host.JoinCgroup). The tests need root and make namespaces of their own: go test ./internal/probe
package probe

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Types of probes.
const (
	TCP  = "tcp"
	UDP  = "udp"
	HTTP = "http"
	ICMP = "icmp"
)

// Namespace is where a probe is made: *host.NS is one.
type Namespace interface {
	// Do runs fn on a thread inside the namespace.
	Do(fn func() error) error
}

// Probe is one question to one address.
type Probe struct {
	Type    string
	Addr    netip.AddrPort // ICMP has no port
	HTTP    HTTPRequest    // of type HTTP
	UDP     UDPRequest     // of type UDP
	Timeout time.Duration
}

// Unreachable says that a probe was made and what came of it. Any other error says that it couldn't be made at all.
type Unreachable struct {
	Text     string // "connection refused by 10.0.0.10:80 after 1 ms"
	Err      error  // what the kernel said, where it did
	Answered bool   // it was reached, and answered something else than wanted
}

// Error implements error.
func (u *Unreachable) Error() string { return u.Text }

// Unwrap implements the error chain.
func (u *Unreachable) Unwrap() error { return u.Err }

// Run makes the probe from inside a namespace. Nil means reachable; an *Unreachable says why it isn't.
func (p Probe) Run(ctx context.Context, ns Namespace) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	var err error
	switch p.Type {
	case TCP:
		var s *os.File
		if s, err = connect(ctx, ns, unix.SOCK_STREAM, 0, p.Addr); err == nil {
			err = s.Close()
		}
	case UDP:
		err = p.UDP.run(ctx, ns, p.Addr)
	case HTTP:
		err = p.HTTP.run(ctx, ns, p.Addr)
	case ICMP:
		err = echo(ctx, ns, p.Addr.Addr())
	default:
		return fmt.Errorf("probe %s: unknown type %q", p.Target(), p.Type)
	}
	return p.explain(ctx, err, time.Since(began))
}

// Target is whom the probe asks: 10.0.0.10:80, or 10.0.0.10 for an echo.
func (p Probe) Target() string {
	if p.Type == ICMP {
		return p.Addr.Addr().String()
	}
	return p.Addr.String()
}

// explain tells what came in words.
func (p Probe) explain(ctx context.Context, err error, took time.Duration) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*Unreachable](err); ok {
		return err
	}
	failed := func(format string, args ...any) error {
		return &Unreachable{Text: fmt.Sprintf(format, args...) + " after " + Milliseconds(took), Err: err}
	}
	errno, _ := errors.AsType[unix.Errno](err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return fmt.Errorf("probe %s: %w", p.Target(), ctx.Err())
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errno == unix.ETIMEDOUT:
		return &Unreachable{Text: fmt.Sprintf("no answer from %s within %s", p.Target(), p.Timeout.Round(time.Millisecond)), Err: err}
	case errno == unix.ECONNREFUSED:
		return failed("connection refused by %s", p.Target())
	case errno == unix.ECONNRESET, errno == unix.EPIPE:
		return failed("connection reset by %s", p.Target())
	case errno == unix.ENETUNREACH, errno == unix.EHOSTUNREACH, errno == unix.EADDRNOTAVAIL, errno == unix.EACCES, errno == unix.EPERM,
		errno == unix.EINVAL, errno == unix.EHOSTDOWN, errno == unix.ENOPROTOOPT, errno == unix.ECONNABORTED, errno == unix.EMSGSIZE:
		// EPERM and EACCES: a firewall of the source's own.
		return failed("%s: %v", p.Target(), errno)
	}
	return fmt.Errorf("probe %s: %w", p.Target(), err)
}

// Milliseconds writes a time as people compare it: "0.4 ms", "12 ms".
func Milliseconds(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	if ms < 10 {
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.0f ms", ms)
}
