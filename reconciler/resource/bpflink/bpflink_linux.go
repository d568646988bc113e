package bpflink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

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
	attach := map[string]func(*host.Host, *host.NS, *found, Attachment) error{TCX: keep, Link: keep, Clsact: note, Attach: note}[a.Way]
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

// keep attaches by a link, whose pin keeps it.
func keep(h *host.Host, ns *host.NS, f *found, a Attachment) error {
	program, err := h.BPFProgram(a.Program.Name)
	if err != nil {
		return err
	}
	path := a.file(h)
	if f.file && f.live && f.Fault != moved {
		if f.Program == a.Program {
			return nil
		}
		l, err := link.LoadPinnedLink(path, nil)
		if err != nil {
			return err
		}
		defer l.Close()
		if err := catchUp(h, a.Program.Name); err != nil {
			return err
		}
		h.Wrote("replace the program of %s by %s", a.ID(), a.Program.Name)
		return l.Update(program)
	}
	h.Wrote("attach %s to %s", a.Program.Name, a.ID())
	var l link.Link
	if a.Way == TCX {
		err = ns.Do(func() (err error) {
			// Without an anchor it is the last one.
			l, err = link.AttachTCX(link.TCXOptions{Interface: f.at, Program: program, Attach: attachTypes[a.Hook]})
			return err
		})
	} else {
		err = inCgroup(h.Cgroup, func(fd int) (err error) {
			l, err = link.AttachRawLink(link.RawLinkOptions{Target: fd, Program: program, Attach: attachTypes[a.Hook]})
			return err
		})
	}
	if err != nil {
		return err
	}
	defer l.Close() // without a pin that detaches it
	if f.file {
		h.Wrote("drop what is left of %s", a.ID())
		if err := sever(path); err != nil {
			return err
		}
	}
	h.Wrote("pin %s", a.ID())
	return l.Pin(path)
}

// sever removes a pinned link. The kernel would detach it some time after its last file is gone; here it is at once.
func sever(path string) error {
	if l, err := link.LoadPinnedLink(path, nil); err == nil {
		err := l.Detach()
		l.Close()
		if err != nil && !errors.Is(err, link.ErrNotSupported) && !errors.Is(err, unix.ENOLINK) && !errors.Is(err, unix.EINVAL) {
			return err
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// note attaches without a link, and notes it in a file before.
func note(h *host.Host, ns *host.NS, f *found, a Attachment) error {
	if a.Dev == "" && f.file && f.Fault == moved {
		if err := take(h, ns, f); err != nil { // from the cgroup that was the node's before
			return err
		}
		f.live, f.file, f.run, f.cgroup = false, false, 0, h.Cgroup
		if err := h.MakeBPFFolder(host.BPFLinkFolder, a.folder()); err != nil {
			return err
		}
	}
	right := f.live && f.Program == a.Program
	if a.Way == Clsact {
		if err := rewrite(h, a, Clsact); err != nil || right {
			return err
		}
		if f.live {
			if err := catchUp(h, a.Program.Name); err != nil {
				return err
			}
		}
		return filter(h, ns, a, f.at)
	}
	if right {
		return rewrite(h, a, noted(h.Cgroup, f.run))
	}
	program, err := h.BPFProgram(a.Program.Name)
	if err != nil {
		return err
	}
	id, err := pinnedID(h, a.Program.Name)
	if err != nil {
		return err
	}
	if err := rewrite(h, a, noted(h.Cgroup, f.run, id)); err != nil {
		return err
	}
	if f.live {
		if err := catchUp(h, a.Program.Name); err != nil {
			return err
		}
	}
	err = inCgroup(h.Cgroup, func(fd int) error {
		opt := link.RawAttachProgramOptions{Target: fd, Program: program, Attach: attachTypes[a.Hook], Flags: allowMulti}
		h.Wrote("attach %s to %s", a.Program.Name, a.ID())
		if !f.live {
			return link.RawAttachProgram(opt)
		}
		old, err := ebpf.NewProgramFromID(ebpf.ProgramID(f.run))
		if err != nil {
			return err
		}
		defer old.Close()
		opt.Anchor = link.ReplaceProgram(old)
		err = link.RawAttachProgram(opt)
		if err == nil || errors.Is(err, unix.EPERM) {
			return err
		}
		// Kernels before 5.6 replace nothing: both are there for a moment.
		opt.Anchor = nil
		if err := link.RawAttachProgram(opt); err != nil {
			return err
		}
		h.Wrote("detach a program from %s", a.ID())
		return link.RawDetachProgram(link.RawDetachProgramOptions{Target: fd, Program: old, Attach: opt.Attach})
	})
	if err != nil || f.run == 0 {
		return err
	}
	return rewrite(h, a, noted(h.Cgroup, id))
}

// rewrite makes the record of an attachment say text.
func rewrite(h *host.Host, a Attachment, text string) error {
	if is, err := os.Readlink(a.file(h)); err == nil && is == text {
		return nil
	}
	h.Wrote("record %s", a.ID())
	return record(text, a.file(h))
}

// pinnedID is the kernel's number of a pinned program.
func pinnedID(h *host.Host, name string) (uint32, error) {
	programs, err := h.BPFPrograms()
	if err != nil {
		return 0, err
	}
	for _, p := range programs {
		if p.Name == name && p.ID != 0 {
			return p.ID, nil
		}
	}
	return 0, fmt.Errorf("find program %s: %w", name, fs.ErrNotExist)
}

const allowMulti = 1 << 1 // BPF_F_ALLOW_MULTI of linux/bpf.h

func inCgroup(path string, fn func(fd int) error) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open the cgroup: %w", err)
	}
	defer dir.Close()
	err = fn(int(dir.Fd()))
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("the cgroup %s or one above it has a program that allows no other: %s: %w", path, alone, err)
	}
	return err
}

// take removes all of ours from a hook.
func take(h *host.Host, ns *host.NS, f *found) error {
	if err := f.single(h, ns); err != nil {
		return err
	}
	path := f.Attachment.file(h)
	switch f.Way {
	case TCX, Link:
		if f.file {
			h.Wrote("detach and unpin %s", f.ID())
			if err := sever(path); err != nil {
				return err
			}
		}
	case Clsact:
		if err := unfilter(h, ns, f); err != nil {
			return err
		}
	case Attach:
		if f.live {
			old, err := ebpf.NewProgramFromID(ebpf.ProgramID(f.run))
			if err != nil {
				return err
			}
			defer old.Close()
			h.Wrote("detach %s", f.ID())
			err = inCgroup(f.cgroup, func(fd int) error {
				return link.RawDetachProgram(link.RawDetachProgramOptions{Target: fd, Program: old, Attach: attachTypes[f.Hook]})
			})
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
	}
	for _, path := range []string{path + unfinished, path} {
		if err := drop(h, path); err != nil {
			return err
		}
	}
	// The folder of a pod goes with its last attachment.
	if dir := f.folder(); dir != rootFolder && dir != cgroupFolder {
		if names, err := h.BPFNames(host.BPFLinkFolder, dir); err != nil || len(names) > 0 {
			return err
		}
		h.Wrote("rmdir %s", h.BPFPath(host.BPFLinkFolder, dir))
		if err := os.Remove(h.BPFPath(host.BPFLinkFolder, dir)); err != nil && !errors.Is(err, fs.ErrNotExist) &&
			!errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	return nil
}

// single detaches what is of ours on a hook beside the one that should be.
func (f *found) single(h *host.Host, ns *host.NS) error {
	for _, x := range slices.Backward(f.more) {
		h.Wrote("detach a second program from %s", f.ID())
		if x.link != 0 {
			l, err := link.NewFromID(link.ID(x.link))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = l.Detach()
				l.Close()
			}
			if err != nil {
				return err
			}
			continue
		}
		p, err := ebpf.NewProgramFromID(ebpf.ProgramID(x.program))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		defer p.Close()
		detach := func(target int) error {
			return link.RawDetachProgram(link.RawDetachProgramOptions{Target: target, Program: p, Attach: attachTypes[f.Hook]})
		}
		if f.Dev == "" {
			err = inCgroup(f.cgroup, detach)
		} else {
			err = ns.Do(func() error { return detach(f.at) })
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}
