package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/api"
	"plumb.internal/plumb/internal/netns"
)

var ctx = context.Background()

// patience is how long anything may take.
const patience = 2 * time.Minute

func (w *world) args(command string, more ...string) []string {
	return append([]string{command, "-C", w.dir, "--run-dir", w.run, "--state-dir", w.state, "--bpffs", w.bpffs, "--cgroup", w.Cgroup}, more...)
}

// all measures everything.
func (w *world) all() error {
	fmt.Printf("\n%d services of 3 backends in files of %d, %d pods\n", w.Services, perFile, w.Pods)
	// A first daemon makes the last good state, and all of it is taken away as a reboot does.
	if err := w.start(); err != nil {
		return err
	}
	if err := w.converged(); err != nil {
		return err
	}
	var took []time.Duration
	for range w.Boots {
		if err := w.takeAway(); err != nil {
			return err
		}
		t, err := w.boot()
		if err != nil {
			return err
		}
		took = append(took, t)
		if err := w.converged(); err != nil {
			return err
		}
	}
	figure("start after a reboot → a service answers", took, "  mark 1000, aim 300")
	if err := w.heal(); err != nil {
		return err
	}
	if err := w.save(); err != nil {
		return err
	}
	if err := w.idle(); err != nil {
		return err
	}
	return w.stop()
}

// takeAway leaves of a node what a reboot does: the files, and the history.
func (w *world) takeAway() error {
	if err := w.stop(); err != nil {
		return err
	}
	if out, err := exec.Command(w.Plumb, w.args("destroy", "--yes")...).CombinedOutput(); err != nil {
		return fmt.Errorf("destroy: %w\n%s", err, out)
	}
	if err := os.RemoveAll(w.run); err != nil { // with what is known of the kernel
		return err
	}
	return dropNewest(filepath.Join(w.state, "bench", "revisions")) // that says so
}

func dropNewest(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return err
	}
	return os.Remove(filepath.Join(dir, entries[len(entries)-1].Name()))
}

func (w *world) start() error {
	w.daemon = exec.Command(w.Plumb, w.args("run")...)
	w.daemon.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := os.Create(w.log())
	if err != nil {
		return err
	}
	defer log.Close()
	w.daemon.Stderr = log
	return w.daemon.Start()
}

func (w *world) stop() error {
	if err := w.daemon.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	return w.daemon.Wait()
}

// until asks again and again, often enough for what it measures.
func until(what string, ok func() bool) error {
	for end := time.Now().Add(patience); !ok(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			return errors.New("no " + what)
		}
	}
	return nil
}

func (w *world) log() string { return filepath.Join(filepath.Dir(w.dir), "log", "log") }

func (w *world) converged() error {
	_, err := w.status(func(s api.Status) bool { return true })
	return err
}

// status waits until the daemon has done all that the files say, and has nothing else to do.
func (w *world) status(ok func(api.Status) bool) (s api.Status, err error) {
	return s, w.logged(until("convergence", func() bool {
		c := api.Dial(filepath.Join(w.run, "bench"))
		if c == nil {
			return false
		}
		s = api.Status{}
		return c.Get(ctx, "daemon", &s) == nil && s.State == api.Converged && s.InForce.From == "files" && s.InForce.Revision > 0 && ok(s)
	}))
}

// logged adds the end of the daemon's log to an error.
func (w *world) logged(err error) error {
	if err != nil {
		if w.daemon.Process.Signal(syscall.SIGQUIT) == nil { // for its goroutines
			_ = w.daemon.Wait()
		}
		log, _ := os.ReadFile(w.log())
		err = fmt.Errorf("%w\n%s", err, log[:min(len(log), 20000)])
	}
	return err
}

// boot measures from the start of the daemon to the first answer.
func (w *world) boot() (time.Duration, error) {
	began := time.Now()
	if err := w.start(); err != nil {
		return 0, err
	}
	var last error
	err := w.logged(until("answer of a service", func() bool { last = w.ask(); return last == nil }))
	if err != nil {
		return 0, fmt.Errorf("%w\n%w", last, err)
	}
	return time.Since(began), nil
}

// ask connects a pod to the first service, whose backends are pods.
func (w *world) ask() error {
	for k := range 3 {
		var l net.Listener
		err := inPod(k, func() (err error) {
			l, err = net.Listen("tcp4", netip.AddrPortFrom(podAddress(k), 8080).String())
			return err
		})
		if err != nil {
			return err
		}
		defer l.Close()
	}
	return inPod(3, func() error { return connect(netip.AddrPortFrom(serviceAddress(0), 80)) })
}

// connect tries every few milliseconds, without waiting for the tries before: what got lost the kernel sends again after a
// second, which is far too late for what is measured here.
func connect(to netip.AddrPort) error {
	var fds []unix.PollFd
	defer func() {
		for _, p := range fds {
			unix.Close(int(p.Fd))
		}
	}()
	for end := time.Now().Add(time.Second); ; {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
		if err != nil && !errors.Is(err, unix.EINPROGRESS) {
			unix.Close(fd)
			return err
		}
		fds = append(fds, unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT})
		if _, err := unix.Poll(fds, 5); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for _, p := range fds {
			if p.Revents&unix.POLLOUT != 0 {
				errno, err := unix.GetsockoptInt(int(p.Fd), unix.SOL_SOCKET, unix.SO_ERROR)
				if err == nil && errno != 0 {
					err = unix.Errno(errno)
				}
				return err
			}
		}
		if time.Now().After(end) {
			return errors.New("no answer")
		}
	}
}

func inPod(i int, fn func() error) error {
	f, _, err := netns.Open(fmt.Sprintf("/run/netns/pod-%d", i))
	if err != nil {
		return err
	}
	defer f.Close()
	return netns.Do(int(f.Fd()), fn)
}

// heal measures from the deletion of a pod's route to its return, by the kernel's own word.
func (w *world) heal() error {
	var took []time.Duration
	events, done := make(chan netlink.RouteUpdate, 1024), make(chan struct{})
	defer close(done)
	if err := netlink.RouteSubscribe(events, done); err != nil {
		return err
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	for i := range w.Times {
		dst := &net.IPNet{IP: podAddress(i % w.Pods).AsSlice(), Mask: net.CIDRMask(32, 32)}
		routes, err := h.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Dst: dst}, netlink.RT_FILTER_DST)
		if err != nil || len(routes) != 1 {
			return fmt.Errorf("find the route to %s: %w, %d routes", dst, err, len(routes))
		}
		began := time.Now()
		if err := h.RouteDel(&routes[0]); err != nil {
			return err
		}
		end := time.After(patience)
		for back := false; !back; {
			select {
			case e := <-events:
				back = e.Type == unix.RTM_NEWROUTE && e.Dst != nil && e.Dst.String() == dst.String()
			case <-end:
				return fmt.Errorf("the route to %s doesn't come back", dst)
			}
		}
		took = append(took, time.Since(began))
		if err := w.converged(); err != nil {
			return err
		}
	}
	figure("deleted route → back", took, "  mark 50, aim 5")
	return nil
}

// save measures from the rename of a saved file to the changed entry in the maps.
func (w *world) save() error {
	frontends, err := w.openMap("frontends")
	if err != nil {
		return err
	}
	defer frontends.Close()
	slots, err := w.openMap("slots")
	if err != nil {
		return err
	}
	defer slots.Close()
	was, err := w.status(func(api.Status) bool { return true })
	if err != nil {
		return err
	}
	before, err := w.usage()
	if err != nil {
		return err
	}
	var took []time.Duration
	for i := range w.Times {
		changed := 1 + (i*37)%(w.Services-1)
		want := bpf.AddressOf(backendAddress(w.Services+i, 0))
		began := time.Now()
		if err := w.writePart(changed/perFile, changed, i); err != nil {
			return err
		}
		key := bpf.FrontendKey{Addr: bpf.AddressOf(serviceAddress(changed)), Port: bpf.PortOf(80), Proto: unix.IPPROTO_TCP}
		err := until("changed backend", func() bool {
			var f bpf.Frontend
			if frontends.Lookup(&key, &f) != nil {
				return false
			}
			for slot := range f.Slots + 1 {
				var b bpf.Backend
				if slots.Lookup(&bpf.SlotKey{Service: f.Service, Slot: slot}, &b) == nil && b.Addr == want {
					return true
				}
			}
			return false
		})
		if err != nil {
			return err
		}
		took = append(took, time.Since(began))
		// The next one is saved once this one is kept as a revision.
		if was, err = w.status(func(s api.Status) bool { return s.InForce.Revision > was.InForce.Revision }); err != nil {
			return err
		}
	}
	after, err := w.usage()
	if err != nil {
		return err
	}
	figure("saved file → kernel", took, "  mark 100, aim 25 (p99, 1,000 services)")
	fmt.Printf("    with verification and revision it costs %.0f ms of processor time\n", (after.cpu-before.cpu)*1000/float64(w.Times))
	return nil
}

func (w *world) openMap(prefix string) (*ebpf.Map, error) {
	found, err := filepath.Glob(filepath.Join(w.bpffs, "plumb", "bench", "maps", prefix+"*"))
	if err != nil || len(found) != 1 {
		return nil, fmt.Errorf("find map %s: %w, %d found", prefix, err, len(found))
	}
	return ebpf.LoadPinnedMap(found[0], nil)
}
