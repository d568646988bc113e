package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/memlock"
)

// Cookies returns the cookies of namespaces: numbers that are never given to another one while the kernel runs. A kernel
// that doesn't tell a socket its own (before 5.14) tells a program, which is attached to this process's own cgroup until
// they all are known. Each is asked for once: as long as there are handles for a namespace it is the same one.
func (h *Host) Cookies(all ...*NS) ([]uint64, error) {
	cookies := make([]uint64, len(all))
	var unknown []int
	for i, ns := range all {
		c, err := ns.ownCookie()
		if errors.Is(err, unix.ENOPROTOOPT) {
			unknown = append(unknown, i)
		} else if err != nil {
			return nil, fmt.Errorf("ask for the cookie of namespace %q: %w", ns.Name, err)
		}
		cookies[i] = c
	}
	if len(unknown) == 0 {
		return cookies, nil
	}
	detach, err := attachTeller()
	if err != nil {
		return nil, fmt.Errorf("ask for the cookies of namespaces: %w", err)
	}
	defer detach()
	for _, i := range unknown {
		ns := all[i]
		if err := ns.Do(func() (err error) {
			cookies[i], err = toldCookie()
			return err
		}); err != nil {
			return nil, fmt.Errorf("ask for the cookie of namespace %q: %w", ns.Name, err)
		}
		ns.cookie.Store(cookies[i])
	}
	return cookies, nil
}

// ownCookie asks the namespace's netlink socket.
func (ns *NS) ownCookie() (uint64, error) {
	if c := ns.cookie.Load(); c != 0 {
		return c, nil
	}
	ns.conn.mu.Lock()
	defer ns.conn.mu.Unlock()
	if ns.conn.fd < 0 {
		return 0, errClosed
	}
	c, err := unix.GetsockoptUint64(ns.conn.fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	if err == nil {
		ns.cookie.Store(c)
	}
	return c, err
}

// asking is the protocol of the sockets that are told the cookie: one kept for experiments, so nobody else's is meant.
const asking = 253

// attachTeller attaches a program that writes the namespace's cookie into the mark and the priority of new sockets of
// protocol asking. It has no pin: should this process die, the kernel detaches it.
func attachTeller() (detach func(), err error) {
	const protocol, mark, priority = 12, 16, 20 // offsets in struct bpf_sock
	limit := memlock.Lift()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "plumb_cookie", Type: ebpf.CGroupSock, AttachType: ebpf.AttachCGroupInetSockCreate, License: "GPL",
		Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.LoadMem(asm.R2, asm.R6, protocol, asm.Word),
			asm.JNE.Imm(asm.R2, asking, "out"),
			asm.FnGetNetnsCookie.Call(),
			asm.StoreMem(asm.R6, mark, asm.R0, asm.Word),
			asm.RSh.Imm(asm.R0, 32),
			asm.StoreMem(asm.R6, priority, asm.R0, asm.Word),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		return nil, fmt.Errorf("load a program: %w", errors.Join(err, limit))
	}
	defer p.Close()
	dir, err := ownCgroup()
	if err != nil {
		return nil, err
	}
	l, err := link.AttachCgroup(link.CgroupOptions{Path: dir, Attach: ebpf.AttachCGroupInetSockCreate, Program: p})
	if err != nil {
		return nil, fmt.Errorf("attach a program to cgroup %s: %w", dir, err)
	}
	return func() { l.Close() }, nil
}

// toldCookie makes a socket in the thread's namespace and reads what the program has told it.
func toldCookie() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, asking)
	if err != nil {
		return 0, fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	low, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK)
	if err != nil {
		return 0, fmt.Errorf("read the mark of a socket: %w", err)
	}
	high, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PRIORITY)
	if err != nil {
		return 0, fmt.Errorf("read the priority of a socket: %w", err)
	}
	cookie := uint64(uint32(low)) | uint64(uint32(high))<<32
	if cookie == 0 {
		return 0, errors.New("the program didn't see the socket; is net_cls or net_prio of cgroup v1 in use?")
	}
	return cookie, nil
}

// ownCgroup is the folder of the cgroup that this process is in.
func ownCgroup() (string, error) {
	mount, err := Mount("cgroup2")
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("find the own cgroup: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return filepath.Join(mount, strings.TrimSpace(path)), nil
		}
	}
	return "", errors.New("find the own cgroup: this process is in none of cgroup2")
}
