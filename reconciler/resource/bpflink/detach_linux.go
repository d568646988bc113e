package bpflink

import (
	"errors"
	"io/fs"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
)

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
	case Netlink:
		if f.live {
			h.Wrote("detach %s", f.ID())
			if err := ns.SetXDP(f.at, modeNumber(f.Mode), -1, true); err != nil && !gone(err) {
				return err
			}
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
