// Package ethtool asks drivers of network devices, and tells them, by the ioctl that every kernel has; the netlink family
// came with 5.6.
package ethtool

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands of linux/ethtool.h.
const (
	GetCoalesce = 0x0e
	SetCoalesce = 0x0f
	GetRings    = 0x10
	SetRings    = 0x11
)

// Lengths of the kernel's structs, in words of 32 bits.
const (
	RingWords     = 9  // struct ethtool_ringparam
	CoalesceWords = 23 // struct ethtool_coalesce
)

// Where struct ethtool_ringparam has the largest rings.
const (
	RxRingMost = 1
	TxRingMost = 4
)

// Do asks the driver of a device in the calling thread's namespace. The words are the kernel's struct, with the command first;
// the answer is in the same ones.
func Do(dev string, w []uint32) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	var req struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}
	if len(dev) >= len(req.name) {
		return unix.ENODEV
	}
	copy(req.name[:], dev)
	req.data = unsafe.Pointer(&w[0])
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	runtime.KeepAlive(w)
	if errno != 0 {
		return errno
	}
	return nil
}
