package reconciler

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/netns"
)

// Observe looks at every kind of object on the host. It writes nothing. desired isn't changed as long as what comes of it
// is in use.
func Observe(ctx context.Context, h *host.Host, desired resource.State) (*Observed, error) {
	return observeKinds(ctx, h, desired, kinds)
}

// Network is the part of a state that ObserveNetwork looks at: namespaces and what `ip` shows, without eBPF objects and
// nftables.
func Network(s resource.State) resource.State {
	part := resource.State{}
	for id, r := range s {
		if network[id.Kind] != nil {
			part[id] = r
		}
	}
	return part
}

// ObserveNetwork is Observe of that part, where it is known that nothing else can have changed. It takes a fraction of the time
// on a node of many services. What differs in it can be made as in a whole state, as long as no link is made or deleted.
func ObserveNetwork(ctx context.Context, h *host.Host, part resource.State) (*Observed, error) {
	return observeKinds(ctx, h, part, network)
}

// Within is the part of a state that ObserveWithin looks at: what is on the links of some namespaces ("" is the root), but not these.
func Within(s resource.State, names []string) resource.State {
	part := resource.State{}
	for id, r := range s {
		if within[id.Kind] != nil && slices.Contains(names, id.NetNS) {
			part[id] = r
		}
	}
	return part
}

// ObserveWithin is Observe of that part, where it is known that nothing else can have changed. It fails where one of the
// namespaces isn't there.
func ObserveWithin(ctx context.Context, h *host.Host, part resource.State, names []string) (*Observed, error) {
	h.Forget()
	h.Only(names)
	defer h.Only(nil)
	o, err := within.observe(ctx, h, part)
	if err != nil {
		return nil, err
	}
	there, err := h.Namespaces(ctx)
	for _, name := range names {
		if err == nil && !slices.Contains(there, name) {
			err = fmt.Errorf("observe namespace %s: it isn't there", name)
		}
	}
	if !slices.Contains(names, "") { // the root came along
		maps.DeleteFunc(o.Owned, func(id resource.ID, _ resource.Resource) bool { return id.NetNS == "" })
		o.Foreign = slices.DeleteFunc(o.Foreign, func(r resource.Resource) bool { return r.ID().NetNS == "" })
	}
	return o, err
}

func observeKinds(ctx context.Context, h *host.Host, desired resource.State, kinds table) (*Observed, error) {
	h.Forget()
	w := sorted(desired)
	if err := kinds.check(w); err != nil {
		return nil, err
	}
	paths := map[string]string{}
	for _, r := range w.of[netns.Kind] {
		if n, ok := r.(netns.NetNS); ok && n.Path != "" {
			paths[n.Name] = n.Path
			h.Adopt(n.Name, n.Path)
		}
	}
	o, err := kinds.observeSorted(ctx, h, w)
	if err != nil {
		return nil, err
	}
	for pod, path := range paths {
		if h.Waiting(pod) {
			o.Waiting[pod] = path
		}
	}
	return o, nil
}

// Diff says what must change so that the observed state becomes the desired one, in an order that works. It is pure.
func Diff(desired resource.State, o *Observed) (*resource.Plan, error) { return kinds.diff(desired, o) }

// Apply makes the changes of a plan, and nothing else. A change that fails skips only what depends on it; the error is a
// *multierror.Error that holds a *ChangeError for each. When ctx ends, changes under way are finished and no other is
// begun. With conflicts in the plan nothing is touched and the error is a *ConflictError.
func Apply(ctx context.Context, h *host.Host, p *resource.Plan, opt ApplyOptions) error {
	defer h.Forget()
	if opt.Keep {
		p = kinds.keeping(p)
		h.Keep.Store(true)
		defer h.Keep.Store(false)
	}
	return kinds.apply(ctx, h, p, opt)
}

// Verify observes until nothing remains to be changed. If something still does after a few seconds the error is a
// *NotConvergedError. It writes nothing, but on old kernels the proxy entries that they drop after the fact.
func Verify(ctx context.Context, h *host.Host, desired resource.State) error {
	return verifyAs(ctx, h, desired, Diff)
}

// VerifyKept is Verify after an apply with ApplyOptions.Keep: what it left doesn't count.
func VerifyKept(ctx context.Context, h *host.Host, desired resource.State) error {
	return verifyAs(ctx, h, desired, func(desired resource.State, o *Observed) (*resource.Plan, error) {
		p, err := Diff(desired, o)
		if err != nil {
			return nil, err
		}
		return kinds.keeping(p), nil
	})
}

func verifyAs(ctx context.Context, h *host.Host, desired resource.State, diff func(resource.State, *Observed) (*resource.Plan, error)) error {
	look := func(ctx context.Context) (*resource.Plan, error) {
		o, err := Observe(ctx, h, desired)
		if err != nil {
			return nil, err
		}
		return diff(desired, o)
	}
	if err := restoreProxies(ctx, h, desired, look); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	return verify(ctx, settleTime, look)
}

// Converge makes the host what desired says: observe, diff, apply, verify. Where there is nothing to do it writes nothing.
// It asks nobody: see Refuse for what a person should have allowed before.
func Converge(ctx context.Context, h *host.Host, desired resource.State) error {
	o, err := Observe(ctx, h, desired)
	if err != nil {
		return err
	}
	p, err := Diff(desired, o)
	if err != nil {
		return err
	}
	if err := Apply(ctx, h, p, ApplyOptions{}); err != nil {
		return err
	}
	if p.Empty() {
		return nil
	}
	return Verify(ctx, h, desired)
}

// PlanDestroy says what Destroy would do. No configuration leads here, however empty it is.
func PlanDestroy(ctx context.Context, h *host.Host) (*resource.Plan, *Observed, error) {
	o, err := Observe(ctx, h, resource.State{})
	if err != nil {
		return nil, nil, err
	}
	p, err := Diff(resource.State{}, o)
	return p, o, err
}

// Destroy carries out a plan of PlanDestroy and nothing else, verifies that nothing is left that plumb owns on the host,
// and then removes the node's folder of the BPF file system and its run folder: records, prior values, cache and lock. The
// caller holds the lock; it ends with the caller's unlock.
func Destroy(ctx context.Context, h *host.Host, p *resource.Plan, opt ApplyOptions) error {
	if err := Apply(ctx, h, p, opt); err != nil {
		return err
	}
	if err := Verify(ctx, h, resource.State{}); err != nil {
		return err
	}
	if err := h.UnshareFolder(); err != nil { // where a run was cut off just before
		return err
	}
	if err := h.RemoveBPFFolders(); err != nil {
		return err
	}
	return removeRunDir(h)
}

// removeRunDir removes the node's run folder, the lock last: until then nobody else works on the node.
func removeRunDir(h *host.Host) error {
	var paths []string
	err := filepath.WalkDir(h.RunDir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			paths = append(paths, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove the run folder: %w", err)
	}
	slices.Reverse(paths) // what is in a folder before the folder
	lock := h.Path(lockFile)
	remove := func(path string) error {
		h.Wrote("remove %s", path)
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the run folder: %w", err)
		}
		return nil
	}
	for _, path := range paths {
		if path != lock && path != h.RunDir {
			if err := remove(path); err != nil {
				return err
			}
		}
	}
	if err := remove(lock); err != nil {
		return err
	}
	return remove(h.RunDir)
}
