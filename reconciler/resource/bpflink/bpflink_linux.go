package bpflink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"plumb.internal/plumb/internal/host"
)

// Create implements reconciler.Ops. What a device that is gone has left is replaced.
func (Ops) Create(_ context.Context, h *host.Host, a Attachment) error {
	f, ns, err := now(h, a)
	if err == nil && f.ours() && f.Fault == "" {
		err = fs.ErrExist
	}
	if err == nil {
		err = put(h, ns, f, a)
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", a.ID(), err)
	}
	return nil
}

// Update implements reconciler.Ops: another program in the place of the one that runs, or what isn't attached any more
// attached again.
func (Ops) Update(_ context.Context, h *host.Host, _, to Attachment) error {
	f, ns, err := now(h, to)
	if err == nil {
		err = put(h, ns, f, to)
	}
	if err != nil {
		return fmt.Errorf("update %s: %w", to.ID(), err)
	}
	return nil
}

// Delete implements reconciler.Ops. Programs of somebody else's stay as they are.
func (Ops) Delete(_ context.Context, h *host.Host, a Attachment) error {
	f, ns, err := now(h, a)
	if err == nil && f.ours() {
		err = take(h, ns, f)
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", a.ID(), err)
	}
	return nil
}

// now looks at the hook of a as it is at this moment. Without its namespace or device there is at most a file.
func now(h *host.Host, a Attachment) (*found, *host.NS, error) {
	programs, err := known(h)
	if err != nil {
		return nil, nil, err
	}
	if a.Dev == "" {
		f, err := look(h, nil, a, 0, programs)
		return f, nil, err
	}
	ns, index, err := h.Device(a.NetNS, a.Dev)
	if errors.Is(err, fs.ErrNotExist) {
		ns, err = h.NS("") // any will do to look at a file
		index = 0
	}
	if err != nil {
		return nil, nil, err
	}
	var f *found
	err = ns.Do(func() (err error) { f, err = look(h, ns, a, index, programs); return err })
	return f, ns, err
}

// put makes what is on a hook what a says, whatever is there of ours, and looks again.
func put(h *host.Host, ns *host.NS, f *found, a Attachment) error {
	if a.Dev != "" && f.at == 0 {
		return fmt.Errorf("find link %s: %w", a.Dev, fs.ErrNotExist)
	}
	if err := h.MakeBPFFolder(host.BPFLinkFolder, a.folder()); err != nil {
		return err
	}
	if a.Dev == "" && f.alone {
		return fmt.Errorf("the cgroup %s has a program that allows no other beside it: %s", h.Cgroup, alone)
	}
	if f.Foreign != "" && !f.live {
		return fmt.Errorf("%s has the XDP hook of %s", f.Foreign, a.Dev)
	}
	attach := map[string]func(*host.Host, *host.NS, *found, Attachment) error{TCX: keep, Link: keep, Clsact: note, Attach: note, Netlink: noteXDP}[a.Way]
	if attach == nil {
		return fmt.Errorf("there is no way %q to attach a program", a.Way)
	}
	if err := attach(h, ns, f, a); err != nil {
		return err
	}
	again, _, err := now(h, a)
	if err != nil {
		return err
	}
	// Others of ours on the hook go when the right one is there.
	if err := again.single(h, ns); err != nil {
		return err
	}
	if len(again.more) > 0 {
		if again, _, err = now(h, a); err != nil {
			return err
		}
	}
	if fields, _ := (Ops{}).Diff(again.Attachment, a); len(fields) > 0 {
		return fmt.Errorf("read back: %s is %q, not %q", fields[0].Name, fields[0].Before, fields[0].After)
	}
	return nil
}
