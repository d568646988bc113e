package watch

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/go-multierror"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/netns"
)

// Look finds out which namespaces are the node's now, and watches the folders that it has by now. It is called after each
// observation, when the host knows its namespaces.
//
// A socket hears of another namespace only if that has a number in its own. Pairs of links give one by themselves; where
// there is none (macvlan, ipvlan) one is given.
func (k *Kernel) Look(ctx context.Context) error {
	pods, err := k.h.Namespaces(ctx)
	if err != nil {
		return fmt.Errorf("listen to namespaces: %w", err)
	}
	k.mu.Lock()
	known := make(map[netns.ID]int32, len(k.numbers))
	for id, n := range k.numbers {
		known[id] = n
	}
	k.mu.Unlock()
	var failed *multierror.Error
	names, numbers := make(map[int32]string, len(pods)), make(map[netns.ID]int32, len(pods))
	for _, pod := range pods {
		if pod == "" {
			continue
		}
		ns, err := k.h.NS(pod)
		if err != nil {
			continue // gone by now: an event of its own
		}
		n, ok := known[ns.ID]
		if !ok {
			if n, err = k.number(ns); err != nil {
				failed = multierror.Append(failed, fmt.Errorf("listen to namespace %s: %w", pod, err))
				continue
			}
		}
		names[n], numbers[ns.ID] = pod, n
	}
	k.mu.Lock()
	k.names, k.numbers = names, numbers
	k.mu.Unlock()
	k.watchFolders()
	return failed.ErrorOrNil()
}

// number is the number of a namespace in the root namespace; it gets one if it has none.
func (k *Kernel) number(ns *host.NS) (int32, error) {
	root, err := k.h.NS("")
	if err != nil {
		return 0, err
	}
	fd, err := ns.FD()
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	for range 3 {
		n, err := root.Handle().GetNetNsIdByFd(fd)
		if err != nil || n >= 0 {
			return int32(n), err
		}
		k.h.Wrote("number namespace %s", ns.Name)
		if err := root.Handle().SetNetNsIdByFd(fd, -1); err != nil && !errors.Is(err, unix.EEXIST) {
			return 0, err
		}
	}
	return 0, errors.New("the kernel says that it has a number, and doesn't tell which")
}
