// Package memlock takes away the limit of locked memory, by which kernels before 5.11 count eBPF maps and programs.
package memlock

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Lift takes the limit away from this process, once. It comes before anything is made with the eBPF library: what that
// tries out and can't for want of memory, such as whether maps may have names, it takes for not supported ever after. Where
// the limit can't be raised the error says so; later kernels don't mind.
var Lift = sync.OnceValue(func() error {
	all := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &all, nil); err != nil {
		return fmt.Errorf("raise the limit of locked memory, ulimit -l: %w", err)
	}
	return nil
})
