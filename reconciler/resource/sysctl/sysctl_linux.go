package sysctl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

const procSys = "/proc/sys"

// Observe implements reconciler.Ops. It reads the settings that are wanted and those that have a record, nothing else. A
// wanted setting counts as ours whether we changed it or not: it exists anyway, and what matters is its value. Nothing is
// foreign. A wanted setting that there can't be is an error.
func (Ops) Observe(ctx context.Context, h *host.Host, wanted []Sysctl) (owned, foreign []Sysctl, err error) {
	keys, err := recorded(h)
	if err != nil {
		return nil, nil, err
	}
	byID := make(map[resource.ID]Sysctl, len(wanted))
	for _, w := range wanted {
		byID[w.ID()] = w
		if !slices.Contains(keys[w.NetNS], w.Key) {
			keys[w.NetNS] = append(keys[w.NetNS], w.Key)
		}
	}
	var names []string
	for name := range keys {
		names = append(names, name)
	}
	slices.Sort(names)
	// What is wanted and isn't there will be created; what is left is a record whose setting went with its namespace or
	// device.
	found, create := make([][]Sysctl, len(names)), make([][]Sysctl, len(names))
	missing := func(s Sysctl, i int) {
		if w, ok := byID[s.ID()]; ok {
			create[i] = append(create[i], w)
		} else {
			found[i] = append(found[i], s)
		}
	}
	absent := make([]bool, len(names)) // namespaces
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, name := range names {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			ns, err := h.NS(name)
			if errors.Is(err, fs.ErrNotExist) {
				absent[i] = true
				for _, k := range keys[name] {
					missing(Sysctl{NetNS: name, Key: k}, i)
				}
				return nil
			}
			if err != nil {
				return err
			}
			return ns.Do(func() error {
				for _, k := range keys[name] {
					s := Sysctl{NetNS: name, Key: k}
					s.Value, err = read(k)
					if errors.Is(err, fs.ErrNotExist) {
						missing(s, i)
						continue
					}
					if err != nil {
						return err
					}
					found[i] = append(found[i], s)
				}
				return known(create[i])
			})
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	var fresh []Sysctl
	for i, f := range found {
		owned = append(owned, f...)
		if absent[i] {
			fresh = append(fresh, create[i]...)
		}
	}
	if err := knownInNew(fresh); err != nil {
		return nil, nil, err
	}
	for i, s := range owned {
		if s.NetNS == "" && s.Key == "net.ipv6.conf.all.forwarding" && !on(s.Value) {
			if owned[i].severs, err = severs(h, wanted); err != nil {
				return nil, nil, err
			}
		}
	}
	return owned, nil, nil
}

// severs reports whether IPv6 forwarding in the root namespace would delete a default route learnt by router
// advertisement: its device listens only as long as it doesn't forward, and that isn't about to change.
func severs(h *host.Host, wanted []Sysctl) (bool, error) {
	ns, err := h.NS("")
	if err != nil {
		return false, err
	}
	links, err := ns.Links()
	if err != nil {
		return false, err
	}
	routes, err := ns.Routes()
	if err != nil {
		return false, err
	}
	for _, r := range routes {
		if ones, _ := r.Dst.Mask.Size(); r.Family != unix.AF_INET6 || ones != 0 || r.Protocol != unix.RTPROT_RA {
			continue
		}
		indexes := []int{r.LinkIndex}
		for _, hop := range r.MultiPath {
			indexes = append(indexes, hop.LinkIndex)
		}
		for _, index := range indexes {
			i := slices.IndexFunc(links, func(l *host.Link) bool { return l.Index == index })
			if i < 0 {
				continue
			}
			accept := key("net/ipv6/conf/" + links[i].Name + "/accept_ra")
			cured := slices.ContainsFunc(wanted, func(w Sysctl) bool {
				return w.NetNS == "" && w.Key == accept && fold(w.Value) == "2"
			})
			if cured {
				continue
			}
			var v string
			if err := ns.Do(func() (err error) { v, err = read(accept); return err }); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return false, err
			}
			if v == "1" {
				return true, nil
			}
		}
	}
	return false, nil
}

// read returns a value; the calling thread is in the namespace.
func read(k string) (string, error) {
	p, err := path(k)
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(filepath.Join(procSys, p))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", k, err)
	}
	return fold(string(data)), nil
}

// write sets a value and reads it back, since the kernel ignores or alters some.
func write(k, value string) error {
	p, err := path(k)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(procSys, p), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set %s: %w", k, err)
	}
	_, err = f.WriteString(value)
	err = errors.Join(err, f.Close())
	switch {
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("set %s to %q: the kernel doesn't take this value: %w", k, value, err)
	case err != nil:
		return fmt.Errorf("set %s to %q: %w", k, value, err)
	}
	now, err := read(k)
	if err == nil && now != fold(value) {
		err = fmt.Errorf("set %s to %q: the kernel made %q of it", k, value, now)
	}
	return err
}

// Create implements reconciler.Ops: the namespace or the device wasn't there when the plan was made. A record of an
// earlier one that had the same name says nothing about this one.
func (Ops) Create(_ context.Context, h *host.Host, s Sysctl) error { return set(h, s, true) }

// Update implements reconciler.Ops.
func (Ops) Update(_ context.Context, h *host.Host, _, to Sysctl) error { return set(h, to, false) }

// set records the prior value, unless that was done, and then changes the value.
func set(h *host.Host, s Sysctl, fresh bool) error {
	ns, err := h.NS(s.NetNS)
	if err != nil {
		return fmt.Errorf("set %s: %w", s.Key, err)
	}
	rec := (*record)(nil)
	if !fresh {
		if rec, err = readRecord(h, s); err != nil {
			return err
		}
	}
	return ns.Do(func() error {
		now, err := read(s.Key)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("this kernel has no setting %s%s: %w", s.Key, in(s.NetNS), err)
		}
		if err != nil {
			return err
		}
		s.Value = s.over(now)
		if fields, _ := (Ops{}).Diff(Sysctl{Value: now}, s); len(fields) == 0 {
			if fresh {
				return inherit(h, s, now)
			}
			return nil
		}
		switch {
		case rec == nil:
			rec = &record{Key: s.Key, Prior: now, Ours: fold(s.Value)}
			if rec.Along, err = along(s); err != nil {
				return err
			}
			err = writeRecord(h, s, rec)
		case rec.Ours != fold(s.Value):
			if !slices.Contains(rec.Earlier, rec.Ours) {
				rec.Earlier = append(rec.Earlier, rec.Ours)
			}
			rec.Ours = fold(s.Value)
			err = writeRecord(h, s, rec)
		}
		if err != nil {
			return err
		}
		h.Wrote("set %s to %s", s.ID(), s.Value)
		return write(s.Key, s.Value)
	})
}

// congestion is the setting that a new namespace has from the machine's own.
const congestion = "net.ipv4.tcp_congestion_control"

// inherit records what a new namespace would have if plumb hadn't set it in the root namespace before. What we leave alone
// otherwise isn't ours, and an old record isn't about this.
func inherit(h *host.Host, s Sysctl, now string) error {
	if s.NetNS == "" || s.Key != congestion {
		return dropRecord(h, s)
	}
	rec, err := readRecord(h, Sysctl{Key: s.Key})
	if err != nil {
		return err
	}
	if rec == nil || rec.Ours != now {
		return dropRecord(h, s)
	}
	return writeRecord(h, s, &record{Key: s.Key, Prior: rec.Prior, Ours: now})
}

// along reads the settings that the kernel is going to change together with s.
func along(s Sysctl) ([]follower, error) {
	dir := confDir(s.Key)
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(filepath.Join(procSys, dir))
	if err != nil {
		return nil, fmt.Errorf("list what %s changes along: %w", s.Key, err)
	}
	var devices []string
	for _, e := range entries {
		devices = append(devices, e.Name())
	}
	var list []follower
	for _, f := range followers(s.Key, s.Value, devices) {
		if f.Prior, err = read(f.Key); errors.Is(err, fs.ErrNotExist) {
			continue // went meanwhile
		} else if err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}

// Delete implements reconciler.Ops: the value from before the first change comes back, if the present one is still ours.
func (Ops) Delete(_ context.Context, h *host.Host, s Sysctl) error {
	rec, err := readRecord(h, s)
	if rec == nil || err != nil {
		return err
	}
	ns, err := h.NS(s.NetNS)
	if err == nil {
		err = ns.Do(func() error { return restore(h, s, rec) })
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // gone with its namespace or device
		return fmt.Errorf("restore %s: %w", s.Key, err)
	}
	return dropRecord(h, s)
}

func restore(h *host.Host, s Sysctl, rec *record) error {
	now, err := read(s.Key)
	if err != nil {
		return err
	}
	if now != rec.Ours && now != fold(rec.Prior) && !slices.Contains(rec.Earlier, now) {
		h.Warn("%s%s is %q now, which plumb didn't set: it stays (it was %q before plumb)", s.Key, in(s.NetNS), now, rec.Prior)
		return nil
	}
	// What each follower shall be afterwards: its prior value, or what somebody else made of it meanwhile. Read before
	// the master changes, which changes them again. If the master has its prior value already, a run was cut off here,
	// and the followers are as the kernel left them.
	undone := now == fold(rec.Prior)
	goal := map[string]string{}
	for _, f := range rec.Along {
		v, err := read(f.Key)
		if err != nil {
			continue // a device that went
		}
		if v == f.Ours || undone {
			v = f.Prior
		}
		goal[f.Key] = v
	}
	if !undone {
		h.Wrote("restore %s to %s", s.ID(), rec.Prior)
		if err := write(s.Key, rec.Prior); err != nil {
			return err
		}
	}
	var errs []error
	for _, f := range rec.Along {
		want, ok := goal[f.Key]
		v, err := read(f.Key)
		if !ok || err != nil || v == want {
			continue
		}
		h.Wrote("restore %s%s to %s", f.Key, in(s.NetNS), want)
		errs = append(errs, write(f.Key, want))
	}
	return errors.Join(errs...)
}

func in(netns string) string {
	if netns == "" {
		return ""
	}
	return " in pod " + netns
}
