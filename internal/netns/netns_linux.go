// Package netns makes network namespaces, names them and runs functions inside them. It knows nothing of plumb's marks.
//
// A thread that has entered another namespace never goes back to the Go scheduler: it ends with its function. So no
// other goroutine can ever run in the wrong namespace.
package netns

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotNetNS says that a path is there and isn't a network namespace: a plain file, or what is left of a bind mount that
// was made in a private mount namespace.
var ErrNotNetNS = errors.New("not a network namespace")

// ID tells one network namespace of a running kernel from all others that live at the same time.
type ID struct{ Dev, Ino uint64 }

// String is "dev:inode".
func (id ID) String() string { return fmt.Sprintf("%d:%d", id.Dev, id.Ino) }

// Open opens the namespace that path names. The error wraps fs.ErrNotExist where nothing is there, and ErrNotNetNS where
// something else is.
func Open(path string) (*os.File, ID, error) {
	// O_NONBLOCK: somebody may have put a FIFO there.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		// ESRCH: a process of /proc/PID/ns/net that ended between look-up and open.
		if errors.Is(err, unix.ESRCH) {
			err = fs.ErrNotExist
		}
		return nil, ID{}, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	id, err := FD(fd)
	if err != nil {
		unix.Close(fd)
		return nil, ID{}, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), id, nil
}

// FD returns the identity of the namespace that an open file is, or ErrNotNetNS.
func FD(fd int) (ID, error) {
	var sfs unix.Statfs_t
	if err := unix.Fstatfs(fd, &sfs); err != nil {
		return ID{}, err
	}
	if int64(sfs.Type) != unix.NSFS_MAGIC {
		return ID{}, ErrNotNetNS
	}
	if t, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err == nil && t != unix.CLONE_NEWNET {
		return ID{}, ErrNotNetNS
	}
	return fstat(fd)
}

func fstat(fd int) (ID, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return ID{}, err
	}
	return ID{Dev: uint64(st.Dev), Ino: st.Ino}, nil
}

// Stat returns the identity of the namespace that path names, with the errors of Open.
func Stat(path string) (ID, error) {
	f, id, err := Open(path)
	if err != nil {
		return ID{}, err
	}
	return id, f.Close()
}

// Current opens the namespace of the calling thread.
func Current() (*os.File, error) {
	f, _, err := Open("/proc/thread-self/ns/net")
	return f, err
}

// New makes a namespace and runs setup inside it before anybody can see it. The namespace lives as long as the returned
// file is open, or a process, a socket or a mount holds it.
func New(setup func() error) (*os.File, error) {
	var f *os.File
	err := thread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("create a network namespace: %w", err)
		}
		var err error
		if f, err = Current(); err != nil {
			return fmt.Errorf("open the new network namespace: %w", err)
		}
		if setup == nil {
			return nil
		}
		return setup()
	})
	if err != nil && f != nil {
		f.Close()
		f = nil
	}
	return f, err
}

// Do runs fn inside the namespace that fd is, on a thread of its own.
func Do(fd int, fn func() error) error {
	return thread(func() error {
		if err := Enter(fd); err != nil {
			return err
		}
		return fn()
	})
}

// Enter moves the calling thread into a namespace. The caller has locked its goroutine to the thread and never unlocks it.
func Enter(fd int) error {
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	return nil
}

// thread runs fn on a thread that ends with it. A panic of fn goes on in the caller.
func thread(fn func() error) error {
	var err error
	var panicked any
	done := make(chan struct{})
	go func() {
		defer close(done)
		onOwnThread(func() {
			defer func() { panicked = recover() }()
			err = fn()
		})
	}()
	<-done
	if panicked != nil {
		panic(panicked)
	}
	return err
}

// onOwnThread runs fn on the calling goroutine's thread, which ends with the goroutine. The process's first thread can't
// end: it would stay in a namespace for good, keep it alive, and show it as that of the process. So fn never runs there.
func onOwnThread(fn func()) {
	runtime.LockOSThread() // never unlocked: the runtime ends the thread with the goroutine
	if unix.Gettid() != unix.Getpid() {
		fn()
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		onOwnThread(fn)
	}()
	<-done
	runtime.UnlockOSThread()
}

// Bind names the namespace that f is: it mounts it over the file at path, which must exist.
func Bind(f *os.File, path string) error {
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind the network namespace to %s: %w", path, err)
	}
	return nil
}

// Unbind takes the mount at path away, if there is one.
func Unbind(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}

// IsMount reports whether dir is a mount, which costs far less than Mounted; kernels before 5.8 never say so.
func IsMount(dir string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_BASIC_STATS, &st)
	return err == nil && st.Attributes_mask&st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// Mounted says whether dir is a mount, and whether it spreads to other mount namespaces what is mounted below it, which
// ShareDir makes it do.
func Mounted(dir string) (mount, shared bool, err error) {
	dir, err = filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, false, nil
	}
	if err != nil {
		return false, false, fmt.Errorf("find folder: %w", err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, false, fmt.Errorf("look for mounts: %w", err)
	}
	point := []byte(strings.NewReplacer(`\`, `\134`, " ", `\040`, "\t", `\011`, "\n", `\012`).Replace(dir))
	// "36 35 98:0 / /run/netns rw,noatime shared:1 - tmpfs tmpfs rw"; of several the last one lies on top.
	for line := range bytes.Lines(mounts) {
		before, _, _ := bytes.Cut(line, []byte(" - "))
		if f := bytes.Fields(before); len(f) > 5 && bytes.Equal(f[4], point) {
			mount, shared = true, slices.ContainsFunc(f[6:], func(o []byte) bool { return bytes.HasPrefix(o, []byte("shared:")) })
		}
	}
	return mount, shared, nil
}

// ShareDir makes dir a mount of its own that spreads what is mounted below it, just as ip-netns(8) does when it first
// needs it. Were it left to ip-netns, its recursive bind would cover the names that are there already, and they could
// never be taken away again. Announce is called before each of its writes.
func ShareDir(dir string, announce func(format string, args ...any)) error {
	announce("mount --make-shared %s", dir)
	err := unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) {
		announce("mount --rbind %s", dir)
		if err := unix.Mount(dir, dir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s to itself: %w", dir, err)
		}
		announce("mount --make-shared %s", dir)
		err = unix.Mount("", dir, "none", unix.MS_SHARED|unix.MS_REC, "")
	}
	if err != nil {
		return fmt.Errorf("share %s: %w", dir, err)
	}
	return nil
}

// DeadOutside reports whether the namespace that is mounted at path here is a dead plain file for the rest of the machine:
// this process has a mount namespace of its own, and its mounts don't spread to that of an ancestor which has the same
// folder.
func DeadOutside(path string, id ID) bool {
	mine, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return false
	}
	for pid := os.Getppid(); pid > 0; pid = Parent(pid) {
		// Some container hosts let nobody look at their first process.
		other, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
		if err != nil || other == mine {
			continue
		}
		var here, there unix.Stat_t
		outside := filepath.Join(fmt.Sprintf("/proc/%d/root", pid), path)
		if unix.Stat(filepath.Dir(path), &here) != nil || unix.Stat(filepath.Dir(outside), &there) != nil ||
			here.Dev != there.Dev || here.Ino != there.Ino {
			continue // a folder that only this mount namespace has: private on purpose
		}
		if seen, err := Stat(outside); err != nil || seen != id {
			return true
		}
	}
	return false
}

// Parent is the parent of a process; 0 for the first one, or if it can't be read.
func Parent(pid int) (ppid int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	// The name in parentheses may hold anything.
	_, _ = fmt.Sscanf(string(b[bytes.LastIndexByte(b, ')')+1:]), " %c %d", new(rune), &ppid)
	return ppid
}

// Processes returns the ids of the processes in each namespace, by the namespace's inode.
func Processes() (map[uint64][]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	pids := map[uint64][]int{}
	for _, name := range names {
		var pid int
		if _, err := fmt.Sscanf(name, "%d", &pid); err != nil || pid == os.Getpid() {
			continue
		}
		var ino uint64
		// The process may be gone by now, or be a kernel thread without namespaces.
		if target, err := os.Readlink("/proc/" + name + "/ns/net"); err == nil {
			if _, err := fmt.Sscanf(target, "net:[%d]", &ino); err == nil {
				pids[ino] = append(pids[ino], pid)
			}
		}
	}
	return pids, nil
}
