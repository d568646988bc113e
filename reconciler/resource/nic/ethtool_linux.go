package nic

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands of linux/ethtool.h. The ioctl answers on every kernel; the netlink family came with 5.6.
const (
	getCoalesce = 0x0e
	setCoalesce = 0x0f
	getRings    = 0x10
	setRings    = 0x11
)

// words are where settings stand in the kernel's structs, which are made of 32-bit words with the command first.
var words = map[Setting]int{
	RxRing: 5, TxRing: 8,
	RxUsecs: 1, RxFrames: 2, TxUsecs: 5, TxFrames: 6, AdaptiveRx: 10, AdaptiveTx: 11,
}

const (
	ringWords     = 9  // struct ethtool_ringparam
	coalesceWords = 23 // struct ethtool_coalesce
)

// ethtool asks the driver of a device in the calling thread's namespace. The answer is in the same words.
func ethtool(dev string, w []uint32) error {
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

// ask reads a group of settings by ethtool.
func ask(dev string, g group) ([]uint32, error) {
	w := make([]uint32, ringWords)
	w[0] = getRings
	if g == ofCoalesce {
		w = make([]uint32, coalesceWords)
		w[0] = getCoalesce
	}
	return w, ethtool(dev, w)
}

// tell writes some settings of a group by ethtool; the others stay as they are.
func tell(dev string, g group, values Values) error {
	w, err := ask(dev, g)
	if err != nil {
		return err
	}
	w[0] = setRings
	if g == ofCoalesce {
		w[0] = setCoalesce
	}
	for s, v := range values {
		w[words[s]] = v
	}
	return ethtool(dev, w)
}
