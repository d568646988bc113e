package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/netns"
)

// What shells return for a command that can't be executed, and for one that isn't there.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// notRun gives the failure to find a command its exit code.
func notRun(err error) error {
	if _, ok := errors.AsType[*exec.Error](err); !ok {
		return err
	}
	if errors.Is(err, fs.ErrPermission) {
		return &Exit{exitNotExecutable, err}
	}
	return &Exit{exitNotFound, err}
}

// Exec replaces this process by argv, run in a pod's network namespace, and in a cgroup that the node's socket programs see.
func (o *Options) Exec(ctx context.Context, pod string, argv []string) error {
	if err := needRoot("exec"); err != nil {
		return err
	}
	if len(argv) == 0 {
		return errors.New("no command given: plumb exec POD -- COMMAND")
	}
	node, err := o.nodeName(ctx)
	if err != nil {
		return err
	}
	h, err := o.openHost(node)
	if err != nil {
		return err
	}
	ns, err := h.NS(pod)
	if errors.Is(err, fs.ErrNotExist) && o.adopt(ctx, h, pod) {
		ns, err = h.NS(pod)
	}
	switch {
	case errors.Is(err, host.ErrWaiting):
		return err
	case errors.Is(err, fs.ErrNotExist), err == nil && pod == "":
		return fmt.Errorf("node %s has no pod %q with a namespace: %w", node, pod, fs.ErrNotExist)
	case err != nil:
		return err
	}
	fd, err := ns.FD()
	if err != nil {
		return fmt.Errorf("open the namespace of pod %s: %w", pod, err)
	}
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return notRun(fmt.Errorf("run in pod %s: %w", pod, err))
	}
	if err := h.JoinCgroup(); err != nil {
		return err
	}
	// The thread that enters the namespace becomes the whole process with exec.
	runtime.LockOSThread()
	if err := netns.Enter(fd); err != nil {
		return fmt.Errorf("enter pod %s: %w", pod, err)
	}
	if err := syscall.Close(fd); err != nil {
		return fmt.Errorf("enter pod %s: %w", pod, err)
	}
	if err := syscall.Exec(path, argv, os.Environ()); err != nil {
		return fmt.Errorf("run %s in pod %s: %w", path, pod, err)
	}
	return nil
}

// adopt tells the host where the files say that a pod's namespace is: nothing on this machine says so before it is applied.
func (o *Options) adopt(ctx context.Context, h *host.Host, pod string) bool {
	src, err := o.Load(ctx)
	if err != nil {
		return false // they aren't needed for any other pod
	}
	defer src.Close()
	p := src.Config.Pods[pod]
	if p.NetNS == "" || p.Node != "" && p.Node != h.Node {
		return false
	}
	h.Adopt(pod, p.NetNS)
	return true
}
