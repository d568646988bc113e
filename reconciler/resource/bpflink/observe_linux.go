package bpflink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"runtime"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Observe implements reconciler.Ops. It looks at every hook that has a file or is wanted, and nowhere else. Somebody
// else's programs beside ours are nobody's business, but for one in a cgroup that allows no other.
func (Ops) Observe(ctx context.Context, h *host.Host, wanted []Attachment) (owned, foreign []Attachment, err error) {
	if len(wanted) > 0 {
		if err := h.NeedBPFFS(); err != nil { // before anything is written
			return nil, nil, err
		}
	}
	hooks, err := hooks(h, wanted)
	if err != nil {
		return nil, nil, err
	}
	programs, err := known(h)
	if err != nil {
		return nil, nil, err
	}
	// By namespace, each with one visit; those of the cgroup are with those of the root.
	names := slices.Sorted(maps.Keys(hooks))
	all := make([][]*found, len(names))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range names {
		group.Go(func() (err error) {
			if err := ctx.Err(); err != nil {
				return err
			}
			all[i], err = lookAll(h, name, hooks[name], programs)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	for i, name := range names {
		for j, f := range all[i] {
			if f.ours() {
				owned = append(owned, f.Attachment)
			}
			if (f.alone || f.Foreign != "") && !f.live {
				foreign = append(foreign, f.Attachment)
			}
			if want := hooks[name][j]; want.Program != (resource.ID{}) && len(f.others) > 0 {
				h.Warn("%s: %d program(s) of somebody else's come behind plumb's (the kernel's number %d): they don't see what "+
					"goes straight to pods; have them attached in front", f.ID(), len(f.others), f.others[0])
			}
		}
	}
	return owned, foreign, nil
}

// hooks lists what to look at by namespace: all that has a file, or the rest of one, and all that is wanted.
func hooks(h *host.Host, wanted []Attachment) (map[string][]Attachment, error) {
	list := map[string][]Attachment{}
	seen := make(map[resource.ID]bool, len(wanted))
	for _, w := range wanted {
		seen[w.ID()] = true
		list[w.NetNS] = append(list[w.NetNS], w)
	}
	folders, err := h.BPFNames(host.BPFLinkFolder)
	if err != nil {
		return nil, err
	}
	for _, folder := range folders {
		names, err := h.BPFNames(host.BPFLinkFolder, folder)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			for _, a := range filed(folder, name) {
				if id := a.ID(); !seen[id] {
					seen[id] = true
					list[a.NetNS] = append(list[a.NetNS], a)
				}
			}
		}
	}
	return list, nil
}

// lookAll looks at all hooks of one namespace.
func lookAll(h *host.Host, name string, hooks []Attachment, programs map[uint32]string) ([]*found, error) {
	ns, err := h.NS(name)
	index := map[string]int{}
	switch {
	case errors.Is(err, fs.ErrNotExist): // there are only files
		if ns, err = h.NS(""); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	default:
		links, err := ns.Links()
		if err != nil {
			return nil, fmt.Errorf("namespace %q: %w", name, err)
		}
		for _, l := range links {
			index[l.Name] = l.Index
		}
	}
	all := make([]*found, len(hooks))
	return all, ns.Do(func() (err error) {
		for i, a := range hooks {
			if all[i], err = look(h, ns, a, index[a.Dev], programs); err != nil {
				return err
			}
			if a.Program != (resource.ID{}) && a.Dev != "" && a.Link == (resource.ID{}) && a.Way == TCX && index[a.Dev] != 0 {
				// Filters run behind tcx. On devices of our own nobody has any.
				list, err := filters(ns, index[a.Dev], a.Hook)
				if err != nil {
					return err
				}
				for _, k := range list {
					if b, ok := k.(*netlink.BpfFilter); ok && mine(k) == nil {
						all[i].others = append(all[i].others, uint32(b.Id))
					}
				}
			}
		}
		return nil
	})
}
