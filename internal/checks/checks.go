// Package checks finds out whether what the files say of reachability holds.
//
// Each check is made from inside its source's namespace, by package probe. A check of several addresses holds if it does
// for all of them. The tests need root and make namespaces of their own: go test ./internal/checks
package checks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/netns"
	"plumb.internal/plumb/internal/probe"
)

// Within is the time that a check has which names none.
const Within = time.Second

// atOnce is how many checks are made at a time.
const atOnce = 64

// Result is what came of a check.
type Result struct {
	compiler.Check
	Holds bool
	// Reason is what came where that isn't what was wanted, else "".
	Reason string
	// Took is how long it took to find out.
	Took time.Duration
}

// Run makes checks, several at a time. The results are in the order of the checks. Those that name no time have within.
//
// The process joins the node's cgroup, where socket programs see it.
func Run(ctx context.Context, h *host.Host, all []compiler.Check, within time.Duration) ([]Result, error) {
	results := make([]Result, len(all))
	if len(all) == 0 {
		return results, nil
	}
	if err := h.JoinCgroup(); err != nil {
		return nil, fmt.Errorf("run checks: %w", err)
	}
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, c := range all {
		if c.Within == 0 {
			c.Within = within
		}
		g.Go(func() error {
			began := time.Now()
			reason := run(ctx, h, c)
			results[i] = Result{Check: c, Holds: reason == "", Reason: reason, Took: time.Since(began)}
			return nil
		})
	}
	g.Wait()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("run checks: %w", err)
	}
	return results, nil
}

// run makes one check; the reason is "" if it holds.
func run(ctx context.Context, h *host.Host, c compiler.Check) (reason string) {
	began := time.Now()
	ns, done, err := source(h, c)
	if err != nil {
		return err.Error()
	}
	defer done()
	targets := c.Targets
	if c.Host != "" {
		if targets, err = resolve(ctx, ns, c); err != nil {
			return err.Error()
		}
		c.Within -= time.Since(began) // one time for both
	}
	if c.Pod == "" || c.Host != "" { // else it was known which families count
		if targets, err = spoken(ns, targets); err != nil {
			return err.Error()
		}
	}
	reasons := make([]string, len(targets))
	var g sync.WaitGroup
	for i, t := range targets {
		g.Go(func() { reasons[i] = ask(ctx, ns, c, t) })
	}
	g.Wait()
	return strings.Join(slices.DeleteFunc(reasons, func(r string) bool { return r == "" }), "; ")
}

// ask probes one address; "" if that went as expected.
func ask(ctx context.Context, ns probe.Namespace, c compiler.Check, target netip.AddrPort) (reason string) {
	p := probe.Probe{
		Type: c.Type, Addr: target, Timeout: c.Within,
		HTTP: probe.HTTPRequest{Path: c.HTTP.Path, Host: c.HTTP.Host, Status: c.HTTP.Status, Body: c.HTTP.Body},
		UDP:  probe.UDPRequest{Send: c.UDP.Send, Match: c.UDP.Match},
	}
	if p.HTTP.Host == "" && c.Host != "" {
		p.HTTP.Host = c.Host
	}
	began := time.Now()
	err := p.Run(ctx, ns)
	got, told := errors.AsType[*probe.Unreachable](err)
	switch {
	case err == nil && c.Unreachable:
		return fmt.Sprintf("%s answers after %s", p.Target(), probe.Milliseconds(time.Since(began)))
	case err == nil, told && c.Unreachable && !got.Answered:
		return ""
	}
	return err.Error()
}

// source opens the namespace that a check is made from.
func source(h *host.Host, c compiler.Check) (ns probe.Namespace, done func(), err error) {
	if c.NetNS != "" {
		f, _, err := netns.Open(c.NetNS)
		if err != nil {
			return nil, nil, fmt.Errorf("open the namespace: %w", err)
		}
		return file{f}, func() { f.Close() }, nil
	}
	of, err := h.NS(c.Pod)
	switch {
	case errors.Is(err, host.ErrWaiting):
		return nil, nil, err
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil, fmt.Errorf("pod %s isn't there", c.Pod)
	}
	return of, func() {}, err
}

// file is a namespace that isn't the node's own.
type file struct{ f *os.File }

// Do implements probe.Namespace.
func (f file) Do(fn func() error) error { return netns.Do(int(f.f.Fd()), fn) }

// resolve asks the source's name servers.
func resolve(ctx context.Context, ns probe.Namespace, c compiler.Check) ([]netip.AddrPort, error) {
	r, err := probe.ReadResolver("/etc", c.Pod)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", c.Host, err)
	}
	addrs, err := r.Resolve(ctx, ns, c.Host, c.Within)
	if err != nil {
		return nil, err
	}
	targets := make([]netip.AddrPort, len(addrs))
	for i, a := range addrs {
		targets[i] = netip.AddrPortFrom(a, c.Port)
	}
	return targets, nil
}

// spoken leaves out targets of a family that a namespace has no address of, unless there are no others: then the answer to
// the probe says why.
func spoken(ns probe.Namespace, targets []netip.AddrPort) ([]netip.AddrPort, error) {
	speaks := map[bool]bool{}
	err := ns.Do(func() error {
		addrs, err := net.InterfaceAddrs()
		for _, a := range addrs {
			p, parseErr := netip.ParsePrefix(a.String())
			if parseErr != nil || p.Addr().IsLoopback() || p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
				continue
			}
			speaks[p.Addr().Unmap().Is6()] = true
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the addresses of the namespace: %w", err)
	}
	fit := slices.DeleteFunc(slices.Clone(targets), func(t netip.AddrPort) bool { return !speaks[t.Addr().Is6()] })
	if len(fit) == 0 {
		return targets, nil
	}
	return fit, nil
}
