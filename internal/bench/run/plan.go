package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler"
	"plumb.internal/plumb/reconciler/features"
)

const benchPlanPods = 1000

// benchPlan plans with nothing to do, and beside it dumps links, addresses, routes, neighbours and rules once in each of
// the same namespaces, unread, by as many threads. Both open their sockets themselves.
func benchPlan(rounds int) error {
	dir, remove, err := tempDir()
	if err != nil {
		return err
	}
	defer remove()
	if err := writePods(dir, benchPlanPods); err != nil {
		return err
	}
	out, err := private(context.Background(), "plan", dir, strconv.Itoa(rounds))
	if err != nil {
		return err
	}
	var ps []pair
	for l := range strings.Lines(string(out)) {
		var p pair
		if _, err := fmt.Sscan(l, &p.plumb, &p.anchor); err != nil {
			return fmt.Errorf("read %q: %w", l, err)
		}
		ps = append(ps, p)
	}
	report(fmt.Sprintf("plan, nothing to do, %d pods / raw dumps", benchPlanPods), "ms", "mark 4, aim 2", ps)
	return nil
}

func planRounds(args []string, run, bpffs string) error {
	ctx := context.Background()
	rounds, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	src, err := compiler.Load(ctx, args[0], nil)
	if err != nil {
		return err
	}
	defer src.Close()
	set, err := features.Probe(ctx)
	if err != nil {
		return err
	}
	c, err := compiler.Compile(src.Config, "bench", set)
	if err != nil {
		return err
	}
	plan := func(apply bool) error {
		h, err := host.Open(host.Options{Node: "bench", RunDir: run, BPFFS: filepath.Join(bpffs, "plumb", "bench")})
		if err != nil {
			return err
		}
		defer h.Close()
		o, err := reconciler.Observe(ctx, h, c.State)
		if err != nil {
			return err
		}
		p, err := reconciler.Diff(c.State, o)
		if err != nil {
			return err
		}
		if apply {
			return reconciler.Apply(ctx, h, p, reconciler.ApplyOptions{})
		}
		if !p.Empty() {
			return fmt.Errorf("the plan has %d changes, the first is %s %s", len(p.Changes), p.Changes[0].Action, p.Changes[0].ID)
		}
		return nil
	}
	if err := plan(true); err != nil {
		return err
	}
	for i := range rounds + 1 {
		var p pair
		for _, m := range []struct {
			took *float64
			do   func() error
		}{{&p.plumb, func() error { return plan(false) }}, {&p.anchor, dumpAll}} {
			runtime.GC()
			start := time.Now()
			if err := m.do(); err != nil {
				return err
			}
			*m.took = ms(time.Since(start))
		}
		if i > 0 {
			fmt.Println(p.plumb, p.anchor)
		}
	}
	return nil
}

// dumpAll reads every table of every named namespace once, and throws the answers away.
func dumpAll() error {
	names, err := filepath.Glob("/run/netns/*")
	if err != nil {
		return err
	}
	work := make(chan string)
	var g errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			runtime.LockOSThread() // and never unlocked: the thread goes with its namespace
			buf := make([]byte, 64<<10)
			for name := range work {
				if err := dumpOne(name, buf); err != nil {
					return fmt.Errorf("dump %s: %w", name, err)
				}
			}
			return nil
		})
	}
	for _, n := range append(names, "/proc/self/ns/net") {
		work <- n
	}
	close(work)
	return g.Wait()
}

func dumpOne(name string, buf []byte) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	for _, typ := range []int{unix.RTM_GETLINK, unix.RTM_GETADDR, unix.RTM_GETROUTE, unix.RTM_GETNEIGH, unix.RTM_GETRULE} {
		req := nl.NewNetlinkRequest(typ, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		if err := unix.Sendto(s, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		for done := false; !done; {
			n, _, err := unix.Recvfrom(s, buf, 0)
			if err != nil {
				return err
			}
			for b := buf[:n]; len(b) >= unix.NLMSG_HDRLEN; {
				switch nl.NativeEndian().Uint16(b[4:]) {
				case unix.NLMSG_DONE:
					done = true
					b = nil
				case unix.NLMSG_ERROR:
					return unix.Errno(-int32(nl.NativeEndian().Uint32(b[unix.NLMSG_HDRLEN:])))
				default:
					b = b[min(len(b), int(nl.NativeEndian().Uint32(b)+3)&^3):]
				}
			}
		}
	}
	return nil
}
