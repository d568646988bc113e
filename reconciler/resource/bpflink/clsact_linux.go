package bpflink

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Our filters: the last priority that there is, and a name and a handle to tell them by.
const (
	priority   = 0xffff
	handle     = resource.QdiscMajor
	namePrefix = "plumb:"
)

// qdiscs keeps two attachments of one device from making or removing its qdisc at the same time.
var qdiscs sync.Mutex

func parent(hook string) uint32 {
	if hook == Egress {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

// filters lists what is on one hook of a device.
func filters(ns *host.NS, index int, hook string) ([]netlink.Filter, error) {
	device := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}
	for try := 0; ; try++ {
		list, err := ns.Handle().FilterList(device, parent(hook))
		if errors.Is(err, netlink.ErrDumpInterrupted) && try < 20 {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list the filters of the device: %w", err)
		}
		return list, nil
	}
}

// mine returns a filter of ours.
func mine(k netlink.Filter) *netlink.BpfFilter {
	b, ok := k.(*netlink.BpfFilter)
	if ok && b.Priority == priority && b.Handle == handle && strings.HasPrefix(b.Name, namePrefix) {
		return b
	}
	return nil
}

func (f *found) lookClsact(ns *host.NS, programs map[uint32]string) error {
	if f.at == 0 {
		return nil
	}
	list, err := filters(ns, f.at, f.Hook)
	if err != nil {
		return err
	}
	for _, k := range list {
		if b := mine(k); b != nil {
			f.live, f.Program = true, programID(programs[uint32(b.Id)])
		}
	}
	if f.live && !f.file {
		f.Fault = detached // attached, but nothing would remember it
	}
	return nil
}

// filter attaches a program, or puts it in the place of another of ours in one step.
func filter(h *host.Host, ns *host.NS, a Attachment, f *found) error {
	program, err := h.BPFProgram(a.Program.Name)
	if err != nil {
		return err
	}
	if err := qdisc(h, ns, a, f.at); err != nil {
		return err
	}
	if f.live {
		if err := catchUp(h, a.Program.Name); err != nil {
			return err
		}
	}
	h.Wrote("attach %s to %s", a.Program.Name, a.ID())
	defer runtime.KeepAlive(program) // a bare descriptor holds nothing, and the host may forget what it has opened
	return ns.Handle().FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: f.at, Parent: parent(a.Hook), Handle: handle, Priority: priority,
			Protocol: unix.ETH_P_ALL},
		Fd: program.FD(), Name: namePrefix + a.Program.Name, DirectAction: true,
	})
}

// qdiscMark is where the name of a hook is in those of other files.
const qdiscMark = "qdisc"

// marker is the file that says that the device's qdisc is ours: the device's index, since the next one of that name may
// have one of somebody else's.
func marker(h *host.Host, a Attachment) string {
	return h.BPFPath(host.BPFLinkFolder, a.folder(), a.Dev+"."+qdiscMark)
}

// qdisc makes the qdisc that filters sit on, if there is none.
func qdisc(h *host.Host, ns *host.NS, a Attachment, index int) error {
	qdiscs.Lock()
	defer qdiscs.Unlock()
	req := nl.NewNetlinkRequest(unix.RTM_GETQDISC, unix.NLM_F_ACK)
	req.AddData(&nl.TcMsg{Family: nl.FAMILY_ALL, Ifindex: int32(index), Parent: netlink.HANDLE_CLSACT,
		Handle: netlink.MakeHandle(0xffff, 0)})
	// Where there was one before, the kernel says that it has another handle: EINVAL.
	if err := ns.Request(req); err == nil || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	made := strconv.Itoa(index)
	if now, err := os.Readlink(marker(h, a)); err != nil || now != made {
		h.Wrote("record the qdisc of %s", a.Dev)
		if err := record(made, marker(h, a)); err != nil {
			return err
		}
	}
	h.Wrote("create qdisc clsact on %s", a.Dev)
	err := ns.Handle().QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index,
		Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}})
	if err != nil {
		return fmt.Errorf("create qdisc clsact: %w", err)
	}
	return nil
}

// unfinished ends the name of a record that isn't in its place yet.
const unfinished = "~"

// record makes a symbolic link that holds a text, or puts it in the place of another one in one step.
func record(text, path string) error {
	next := path + unfinished
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a run that was cut off
		return err
	}
	if err := os.Symlink(text, next); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// unfilter takes our filter away, and the qdisc if we made it and nobody uses it.
func unfilter(h *host.Host, ns *host.NS, f *found) error {
	a := f.Attachment
	if f.live {
		h.Wrote("detach %s", a.ID())
		err := ns.Handle().FilterDel(&netlink.BpfFilter{FilterAttrs: netlink.FilterAttrs{LinkIndex: f.at, Parent: parent(a.Hook),
			Handle: handle, Priority: priority, Protocol: unix.ETH_P_ALL}, Fd: -1})
		if err != nil && !gone(err) {
			return err
		}
	}
	qdiscs.Lock()
	defer qdiscs.Unlock()
	if err := drop(h, marker(h, a)+unfinished); err != nil {
		return err
	}
	made, err := os.Readlink(marker(h, a))
	if err != nil {
		return nil // there is none of ours
	}
	if f.at != 0 {
		others := false
		for _, hook := range []string{Ingress, Egress} {
			list, err := filters(ns, f.at, hook)
			if err != nil {
				return err
			}
			for _, k := range list {
				if mine(k) != nil {
					return nil // the other hook's needs it
				}
				others = true
			}
		}
		if made == strconv.Itoa(f.at) && !others {
			h.Wrote("delete qdisc clsact of %s", a.Dev)
			err := ns.Handle().QdiscDel(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: f.at,
				Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}})
			if err != nil && !gone(err) {
				return fmt.Errorf("delete qdisc clsact: %w", err)
			}
		}
	}
	return drop(h, marker(h, a))
}

// drop removes a file of ours, if it is there.
func drop(h *host.Host, path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	h.Wrote("remove %s", path)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// gone reports whether the kernel says that there is no such device, qdisc or filter.
func gone(err error) bool {
	return errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL)
}
