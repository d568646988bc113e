package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The names under which this program starts itself.
const (
	argUnderlay = "plumb-lab-underlay" // NAME: unshare, then hold
	argNode     = "plumb-lab-node"     // NODE: unshare, then mount and hold
	argMount    = "plumb-lab-mount"    // NODE: the second half of argNode, inside the new namespaces
	argHold     = "plumb-lab-hold"     // the second half of argUnderlay
	argEnter    = "plumb-lab-enter"    // LAB NODE CMD...
)

// Self starts this very program again, also where its file has been replaced meanwhile.
const Self = "/proc/self/exe"

// RunChild must be called at the start of main (and of TestMain where a test starts labs): a lab starts this program
// again to hold its namespaces or to enter them. It reports true if this process was such a child and is done.
func RunChild() bool {
	var err error
	switch {
	case len(os.Args) == 0:
		return false
	case os.Args[0] == argUnderlay:
		err = unshareAndExec(unix.CLONE_NEWNET, argHold)
	case os.Args[0] == argNode:
		err = unshareAndExec(unix.CLONE_NEWNET|unix.CLONE_NEWNS|unix.CLONE_NEWUTS|unix.CLONE_NEWCGROUP, argMount)
	case os.Args[0] == argHold:
		hold(bringUp("lo"))
	case os.Args[0] == argMount:
		hold(furnish(os.Args[1]))
	case os.Args[0] == argEnter:
		err = enterByName(os.Args[1], os.Args[2], os.Args[3:])
	default:
		return false
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "plumb:", err)
		os.Exit(1)
	}
	return true
}

// unshareAndExec gives the process new namespaces. Only its thread would get them by itself; exec makes that thread the
// whole process. The cgroup namespace has to be made here, after the process was born in the lab's cgroup: it roots in
// the cgroup of the caller.
func unshareAndExec(flags int, as string) error {
	runtime.LockOSThread()
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("make namespaces of the lab: %w", err)
	}
	if err := syscall.Exec(Self, append([]string{as}, os.Args[1:]...), os.Environ()); err != nil {
		return fmt.Errorf("start %s: %w", as, err)
	}
	return nil
}

// hold tells the starter on file 3 how the preparation went, and then lives until it is killed.
func hold(err error) {
	ready := os.NewFile(3, "ready")
	if err != nil {
		fmt.Fprint(ready, err)
		os.Exit(1)
	}
	signal.Ignore(unix.SIGINT, unix.SIGHUP, unix.SIGTERM, unix.SIGPIPE)
	fmt.Fprint(ready, "ready")
	ready.Close()
	runtime.GC()
	for {
		_ = unix.Pause()
	}
}

// stateDir is where plumb keeps the history of nodes.
const stateDir = "/var/lib/plumb"

// furnish makes the node's own mounts: /run, with the named namespaces and plumb's folder in it, the folder of the history,
// /sys of the node's network namespace, bpffs, and the cgroup tree as seen from the node's cgroup. So every default that
// plumb finds by looking is the lab's.
func furnish(node string) error {
	mounts := []struct {
		source, target, fstype string
		flags                  uintptr
		data                   string
		optional               bool
	}{
		{source: "none", target: "/", flags: unix.MS_REC | unix.MS_PRIVATE},
		{source: "plumb-lab", target: "/run", fstype: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=755"},
		{source: "plumb-lab", target: stateDir, fstype: "tmpfs", flags: unix.MS_NOSUID | unix.MS_NODEV, data: "mode=700"},
		{source: "plumb-lab", target: "/sys", fstype: "sysfs", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{source: "plumb-lab", target: "/sys/fs/cgroup", fstype: "cgroup2", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{source: "plumb-lab", target: "/sys/fs/bpf", fstype: "bpf", flags: unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, optional: true},
	}
	// The one folder that a lab may leave on the machine, empty: it is there wherever plumb has ever been used.
	if err := os.MkdirAll(stateDir, 0o700); err != nil {
		return fmt.Errorf("make the folder of the history: %w", err)
	}
	for _, m := range mounts {
		err := unix.Mount(m.source, m.target, m.fstype, m.flags, m.data)
		if err != nil && !m.optional {
			return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
		}
	}
	if err := os.Mkdir("/run/netns", 0o755); err != nil {
		return fmt.Errorf("make folder of namespaces: %w", err)
	}
	if err := unix.Sethostname([]byte(node)); err != nil {
		return fmt.Errorf("set host name %s: %w", node, err)
	}
	return bringUp("lo")
}

// bringUp sets a link of the process's own namespace up.
func bringUp(name string) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	l, err := h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := h.LinkSetUp(l); err != nil {
		return fmt.Errorf("set link %s up: %w", name, err)
	}
	return nil
}

// start starts a holder in the cgroup of node ("" is the underlay's) and waits until it is ready.
func start(ctx context.Context, cg cgroup, node string, argv ...string) (pid int, err error) {
	dir, err := cg.open(node)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("make pipe: %w", err)
	}
	defer r.Close()
	cmd := exec.Command(Self)
	cmd.Args = argv
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "GOMAXPROCS=1"}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return 0, fmt.Errorf("start %s: %w", argv[0], err)
	}
	// Reaped as soon as it dies, so that no zombie is left where this process lives on (tests).
	go cmd.Wait()
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	defer stop()
	answer, err := io.ReadAll(r)
	if err != nil {
		return 0, fmt.Errorf("wait for %s: %w", argv[0], err)
	}
	switch {
	case ctx.Err() != nil:
		return 0, fmt.Errorf("start %s: %w", argv[0], context.Cause(ctx))
	case string(answer) == "ready":
		return cmd.Process.Pid, nil
	case len(answer) == 0:
		return 0, fmt.Errorf("start %s: it ended at once", argv[0])
	}
	return 0, errors.New(strings.TrimSpace(string(answer)))
}
