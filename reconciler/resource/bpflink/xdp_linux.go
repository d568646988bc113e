package bpflink

import (
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
)

// linkModes are the modes as links ask for them.
var linkModes = map[string]link.XDPAttachFlags{Native: link.XDPDriverMode, Generic: link.XDPGenericMode}

// modeNumber is a mode as the kernel's messages have it.
func modeNumber(mode string) uint8 {
	if mode == Generic {
		return host.XDPGeneric
	}
	return host.XDPNative
}

// modeName is what people call a mode.
func modeName(mode uint8) string {
	switch mode {
	case host.XDPNative:
		return Native
	case host.XDPGeneric:
		return Generic
	case host.XDPOffload:
		return "offloaded"
	}
	return fmt.Sprintf("mode %d", mode)
}

// lookXDP asks the device for its programs, and so for the mode that the kernel has made of it.
func (f *found) lookXDP(ns *host.NS, kept *host.BPFLink, programs map[uint32]string) error {
	if kept != nil {
		f.Program = programID(programs[kept.Program])
		f.live = kept.Device() != 0
	}
	if f.at == 0 {
		if f.live {
			f.Fault = moved
		}
		return nil
	}
	l, err := ns.Link(f.Dev)
	if err != nil {
		return err
	}
	f.Hardware, f.mtu = l.Kind == "", l.MTU
	here := false
	for _, x := range l.XDP {
		name := programs[x.Program]
		switch {
		case kept != nil && kept.Device() == f.at && kept.Program == x.Program:
			here, f.Mode = true, modeName(x.Mode)
		case !f.live && (name != "" || slices.Contains(f.noted, x.Program)):
			// Attached by netlink. Without a file nothing would remember it.
			f.live, f.run, f.Program, f.Way, f.Mode = true, x.Program, programID(name), Netlink, modeName(x.Mode)
			if !f.file {
				f.Fault = detached
			}
		default:
			f.Foreign = describeProgram(x)
		}
	}
	if kept != nil && f.live && !here {
		f.Fault = moved
	}
	return nil
}

// describeProgram is "program 17 (xdp_drop), native".
func describeProgram(x host.XDP) string {
	name := ""
	if p, err := ebpf.NewProgramFromID(ebpf.ProgramID(x.Program)); err == nil {
		if info, err := p.Info(); err == nil && info.Name != "" {
			name = " (" + info.Name + ")"
		}
		p.Close()
	}
	return fmt.Sprintf("program %d%s, %s", x.Program, name, modeName(x.Mode))
}

// notedXDP is the record of what is attached without a link: "netlink 12,15 native".
func notedXDP(mode string, programs ...uint32) string {
	return Netlink + noted(mode, programs...)[len(Attach):]
}

// noteXDP attaches by netlink, and notes it in a file before.
func noteXDP(h *host.Host, ns *host.NS, f *found, a Attachment) error {
	if f.live && f.Program == a.Program && f.Mode == a.Mode {
		return rewrite(h, a, notedXDP(a.Mode, f.run))
	}
	if f.live && f.Mode != a.Mode {
		if err := take(h, ns, f); err != nil {
			return err
		}
		f.live, f.run = false, 0
	}
	program, err := h.BPFProgram(a.Program.Name)
	if err != nil {
		return err
	}
	id, err := pinnedID(h, a.Program.Name)
	if err != nil {
		return err
	}
	if err := rewrite(h, a, notedXDP(a.Mode, f.run, id)); err != nil {
		return err
	}
	h.Wrote("attach %s to %s", a.Program.Name, a.ID())
	err = ns.SetXDP(f.at, modeNumber(a.Mode), program.FD(), f.live)
	runtime.KeepAlive(program)
	if err != nil {
		// What the driver refuses leaves nothing to remember.
		if !f.live {
			err = errors.Join(err, drop(h, a.file(h)))
		}
		return f.answer(a, err)
	}
	return rewrite(h, a, notedXDP(a.Mode, id))
}

// answer says what a driver's no means.
func (f *found) answer(a Attachment, err error) error {
	switch {
	case err == nil:
		return nil
	case a.Mode == Native && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, link.ErrNotSupported)):
		return fmt.Errorf("the driver of %s has no native XDP: set tuning.xdp to generic or off: %w", a.Dev, err)
	case a.Mode == Native:
		return fmt.Errorf("the driver of %s doesn't take a program as the device is set up now, with an MTU of %d (many take no large ones "+
			"before kernel 5.18): set tuning.xdp to generic or off, or a smaller tuning.mtu: %w", a.Dev, f.mtu, err)
	}
	return err
}
