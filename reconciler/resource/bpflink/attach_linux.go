package bpflink

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
)

// keep attaches by a link, whose pin keeps it.
func keep(h *host.Host, ns *host.NS, f *found, a Attachment) error {
	program, err := h.BPFProgram(a.Program.Name)
	if err != nil {
		return err
	}
	path := a.file(h)
	if f.file && f.live && f.Fault != moved && f.Mode == a.Mode {
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
	if f.Mode != "" && f.live { // XDP takes no other mode beside it
		if err := take(h, ns, f); err != nil {
			return err
		}
		f.file, f.live = false, false
	}
	h.Wrote("attach %s to %s", a.Program.Name, a.ID())
	var l link.Link
	if a.Hook == XDP {
		err = ns.Do(func() (err error) {
			l, err = link.AttachXDP(link.XDPOptions{Interface: f.at, Program: program, Flags: linkModes[a.Mode]})
			return err
		})
		err = f.answer(a, err)
	} else if a.Way == TCX {
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
		return filter(h, ns, a, f)
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
		opt := link.RawAttachProgramOptions{Target: fd, Program: program, Attach: attachTypes[a.Hook], Flags: unix.BPF_F_ALLOW_MULTI}
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
