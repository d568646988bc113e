package watch

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
)

// folders listens to the names of namespaces and to the pins of BPF objects: deleting a name has no netlink event while a
// process keeps the namespace, and deleting a pin never has one.
func (k *Kernel) folders() error {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	// Aligned as the kernel's struct is.
	var store [4 << 10 / 8]uint64
	buf := unsafe.Slice((*byte)(unsafe.Pointer(&store)), len(store)*8)
	err = k.source(fd, func(fd int) bool {
		n, err := unix.Read(fd, buf)
		if err != nil {
			return errors.Is(err, unix.EINTR)
		}
		for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
			e := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
			end := unix.SizeofInotifyEvent + int(e.Len)
			switch {
			case e.Mask&unix.IN_Q_OVERFLOW != 0:
				k.pending.Lost = true
			case e.Mask&unix.IN_IGNORED == 0:
				k.add(Event{Name: text(b[unix.SizeofInotifyEvent:end]), Removed: e.Mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) != 0})
			}
			b = b[end:]
		}
		return true
	})
	if err == nil {
		k.inotify = k.sources[len(k.sources)-1]
	}
	return err
}

// watchFolders watches the folders that are there. To watch one again changes nothing.
func (k *Kernel) watchFolders() {
	dirs := []string{k.h.NetNSDir, k.h.BPFFS, k.h.BPFPath(host.BPFMapFolder), k.h.BPFPath(host.BPFProgramFolder), k.h.BPFPath(host.BPFLinkFolder)}
	if names, err := k.h.BPFNames(host.BPFLinkFolder); err == nil { // of the cgroup, the root namespace, pods
		for _, name := range names {
			dirs = append(dirs, k.h.BPFPath(host.BPFLinkFolder, name))
		}
	}
	_ = k.inotify.raw.Control(func(fd uintptr) {
		for _, dir := range dirs {
			_, _ = unix.InotifyAddWatch(int(fd), dir, unix.IN_DELETE|unix.IN_MOVE|unix.IN_CREATE|unix.IN_ONLYDIR|unix.IN_DONT_FOLLOW)
		}
	})
}
