package netns

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Sysfs returns the folder that is /sys for the calling thread's namespace: the one that the process sees shows the devices
// of the namespace that it was mounted in. Nobody else sees the folder. The caller calls done when it needs it no more.
func Sysfs() (dir string, done func(), err error) {
	fd, err := sysfs()
	if errors.Is(err, unix.ENOSYS) { // before 5.2
		return mounted()
	}
	if err != nil {
		return "", nil, fmt.Errorf("open /sys of the network namespace: %w", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), func() { unix.Close(fd) }, nil
}

// sysfs makes a mount that is nowhere.
func sysfs() (int, error) {
	conf, err := unix.Fsopen("sysfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(conf)
	if err := unix.FsconfigCreate(conf); err != nil {
		return -1, err
	}
	return unix.Fsmount(conf, unix.FSMOUNT_CLOEXEC, 0)
}

// mounted is /sys as the machine mounted it, where that shows this namespace.
func mounted() (dir string, done func(), err error) {
	ours, err := Stat("/proc/thread-self/ns/net")
	if err != nil {
		return "", nil, err
	}
	first, err := Stat("/proc/1/ns/net")
	if err != nil {
		return "", nil, err
	}
	if ours != first {
		return "", nil, fmt.Errorf("/sys shows the devices of another network namespace, and this kernel can't mount one apart: %w", unix.EOPNOTSUPP)
	}
	return "/sys", func() {}, nil
}
