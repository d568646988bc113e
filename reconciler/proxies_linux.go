package reconciler

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/link"
	"plumb.internal/plumb/reconciler/resource/neigh"
)

// restoreProxies makes again the proxy entries that kernels (before 6.3) drop when a bridge's carrier goes: a bridge has
// none until its first port is up, nor while its only port is being replaced. The kernel acts on that up to a second
// later, so this waits until it has caught up; nothing is lost after that as long as the bridge has a port that is up, and
// without one there is nobody to answer.
func restoreProxies(ctx context.Context, h *host.Host, desired resource.State, look func(context.Context) (*resource.Plan, error)) error {
	wanted := proxies(desired)
	if len(wanted) == 0 {
		return nil
	}
	if err := awaitCarrier(ctx, h, wanted); err != nil {
		return err
	}
	p, err := look(ctx)
	if err != nil {
		return err
	}
	for _, c := range p.Changes {
		if n, ok := c.After.(neigh.Neigh); !ok || !n.Proxy || c.Action != resource.Create {
			return nil // something else is amiss, which is for the caller to say
		}
	}
	return Apply(ctx, h, p, ApplyOptions{})
}

// AwaitDrops waits, until ctx ends, for the kernel to drop the proxy entries that old ones drop after the fact. Verify does so
// itself; this is for those who look and mend until nothing is left.
func AwaitDrops(ctx context.Context, h *host.Host, desired resource.State) error {
	if wanted := proxies(desired); len(wanted) > 0 {
		return awaitCarrier(ctx, h, wanted)
	}
	return nil
}

// proxies are the proxy entries of a state.
func proxies(desired resource.State) (wanted []neigh.Neigh) {
	for _, r := range desired {
		if n, ok := r.(neigh.Neigh); ok && n.Proxy {
			wanted = append(wanted, n)
		}
	}
	return wanted
}

// awaitCarrier waits, for a while, until the kernel has dealt with the last change of carrier of the bridges with entries.
func awaitCarrier(ctx context.Context, h *host.Host, entries []neigh.Neigh) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	devices := map[[2]string]bool{} // namespace and name
	for _, n := range entries {
		devices[[2]string{n.NetNS, n.Dev}] = true
	}
	for {
		busy := false
		for d := range devices {
			ns, err := h.NS(d[0])
			if err != nil {
				return err
			}
			l, err := ns.Link(d[1])
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			busy = busy || err == nil && pending(l)
		}
		if !busy {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// pending reports whether a bridge's carrier has changed without its operational state, which the kernel brings up to date
// along with everything else that follows.
func pending(l *host.Link) bool {
	if l.Kind != link.Bridge || !l.Up() {
		return false
	}
	if l.RawFlags&unix.IFF_LOWER_UP != 0 {
		return l.OperState != netlink.OperUp
	}
	return !slices.Contains([]netlink.LinkOperState{netlink.OperDown, netlink.OperLowerLayerDown}, l.OperState)
}
