package netns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/netns"
	"plumb.internal/plumb/reconciler/resource"
)

const outdated = "another namespace than recorded"

// Observe returns the namespaces that carry our mark, names that only our record reserves, and recorded adopted ones; of
// foreign ones those that have the name of a pod. An adopted namespace that is missing and still wanted isn't returned:
// its pod waits.
func (Ops) Observe(ctx context.Context, h *host.Host, wanted []NetNS) (owned, foreign []NetNS, err error) {
	entries, err := h.Entries(ctx)
	if err != nil {
		return nil, nil, err
	}
	want := map[string]NetNS{}
	for _, w := range wanted {
		want[w.Name] = w
	}
	pods := map[netns.ID]string{} // wanted ones by what their names and paths lead to
	for _, e := range entries {
		if _, ok := want[e.Name]; ok && e.NS != nil && (e.Adopted == nil || pods[e.NS.ID] == "") {
			pods[e.NS.ID] = e.Name
		}
	}
	for _, e := range entries {
		w, isWanted := want[e.Name]
		n := NetNS{Name: e.Name, Owner: e.Owner}
		if e.NS != nil && isWanted && pods[e.NS.ID] != e.Name {
			n.Owner = "the namespace of pod " + pods[e.NS.ID]
			foreign = append(foreign, n)
			n.Owner = ""
		}
		switch {
		case e.Adopted != nil:
			n.Path = e.Adopted.Path
			recorded := e.Adopted.NS != ""
			missing := e.NS == nil && e.Owner == ""
			if missing && isWanted && w.Path == n.Path || !recorded && e.Owner == "" {
				continue
			}
			if e.Owner != "" && isWanted {
				foreign = append(foreign, n)
			}
			if !recorded {
				continue
			}
			n.Owner = ""
			if now, err := host.Describe(n.Path); err == nil && *now != *e.Adopted {
				n.Faults = outdated
			}
			owned = append(owned, n)
		case !e.Mine():
			if isWanted {
				foreign = append(foreign, n)
			}
		case e.NS != nil:
			if n.Faults, err = faults(h, e); err != nil {
				return nil, nil, err
			}
			owned = append(owned, n)
		case e.Reserved:
			n.Faults = halfMade
			owned = append(owned, n)
		}
	}
	return owned, foreign, nil
}

// faults looks at the mark and at lo.
func faults(h *host.Host, e host.Entry) (string, error) {
	links, err := e.NS.Links()
	if err != nil {
		return "", err
	}
	var found []string
	for _, l := range links {
		if l.Name != "lo" {
			continue
		}
		if l.Group != resource.Group || l.Alias != h.Alias(e.Name) {
			found = append(found, "the mark is damaged")
		}
		if !l.Up() {
			found = append(found, "lo is down")
		}
	}
	if !e.Reserved {
		found = append(found, "no record")
	}
	return strings.Join(found, ", "), nil
}

// Create makes the namespace of a pod, or records an adopted one.
//
// The record comes first: with it a name that a kill leaves behind is known as ours. The mark is set while nobody can see
// the namespace, so there is never one of ours without it.
func (Ops) Create(_ context.Context, h *host.Host, n NetNS) error {
	if n.Path != "" {
		return adopt(h, n)
	}
	path := filepath.Join(h.NetNSDir, n.Name)
	reclaim := false
	switch _, err := netns.Stat(path); {
	case err == nil:
		return fmt.Errorf("create namespace %s: %w", path, fs.ErrExist)
	case errors.Is(err, netns.ErrNotNetNS):
		if _, err := os.Lstat(h.ReservedPath(n.Name)); err != nil {
			return fmt.Errorf("create namespace: %s is a file of somebody else's: %w", path, fs.ErrExist)
		}
		reclaim = true
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("create namespace %s: %w", path, err)
	}
	return h.InFolder(func() error { return create(h, n.Name, path, reclaim) })
}

// create makes the namespace of a pod in a folder that is ready; to reclaim is to use a mount point that is there.
func create(h *host.Host, pod, path string, reclaim bool) error {
	if found, err := bringBack(h, pod, path, reclaim); err != nil {
		return fmt.Errorf("create namespace %s from where it was set aside: %w", path, err)
	} else if found {
		return nil
	}
	if err := reserve(h, pod); err != nil {
		return err
	}
	f, err := h.NewNS(func(ns *host.NS) error { return furnish(h, ns, pod) })
	if err != nil {
		return fmt.Errorf("create namespace %s: %w", path, err)
	}
	defer f.Close()
	return bind(h, f, pod, path, reclaim)
}

// bind names a namespace, and makes sure that everybody sees it.
func bind(h *host.Host, f *os.File, pod, path string, reclaim bool) error {
	if !reclaim {
		h.Wrote("create %s", path)
		file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE|os.O_EXCL, 0o444)
		if err != nil {
			return fmt.Errorf("create namespace: %w", err)
		}
		file.Close()
	}
	h.Wrote("mount the namespace at %s", path)
	if err := netns.Bind(f, path); err != nil {
		return err
	}
	return alive(h, f, pod, path)
}

// alive makes sure that the name means the namespace, for this process and for the rest of the machine.
func alive(h *host.Host, f *os.File, name, path string) error {
	id, err := netns.FD(int(f.Fd()))
	if err != nil {
		return err
	}
	now, err := netns.Stat(path)
	if err != nil {
		return fmt.Errorf("create namespace: the mount doesn't show: %w", err)
	}
	if now != id {
		return fmt.Errorf("create namespace %s: something else is mounted there", path)
	}
	if !netns.DeadOutside(path, id) {
		return nil
	}
	h.Wrote("unmount %s", path)
	err = netns.Unbind(path)
	h.Wrote("remove %s", path)
	err = errors.Join(err, remove(path))
	h.Wrote("remove the record of namespace %s", name)
	err = errors.Join(err, remove(h.ReservedPath(name)))
	return errors.Join(fmt.Errorf("create namespace %s: plumb runs in a private mount namespace, and for everybody outside "+
		"of it the name would be a dead plain file; a systemd unit must not set PrivateTmp, ProtectSystem, ProtectHome, "+
		"ReadWritePaths or the like", path), err)
}

// furnish marks a new namespace and sets what everything in it relies on. The calling thread is inside.
func furnish(h *host.Host, ns *host.NS, pod string) error {
	if err := mark(h, ns, pod); err != nil {
		return err
	}
	// A pod's addresses and routes are those of the files, whatever routers on the segment advertise.
	h.Wrote("sysctl %s: net.ipv6.conf.default.accept_ra=0", pod)
	err := os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_ra", []byte("0"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("switch router advertisements off: %w", err)
	}
	return nil
}

// mark gives lo our group and alias and sets it up, in one request.
func mark(h *host.Host, ns *host.NS, pod string) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index, msg.Flags, msg.Change = 1, unix.IFF_UP, unix.IFF_UP // lo is 1 in every namespace
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(resource.Group)))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(h.Alias(pod))))
	h.Wrote("link %s: mark lo and set it up", pod)
	if err := ns.Request(req); err != nil {
		return fmt.Errorf("mark the namespace of pod %s: %w", pod, err)
	}
	return nil
}

func reserve(h *host.Host, pod string) error {
	h.Wrote("record namespace %s", pod)
	if err := h.CreateFile(h.ReservedPath(pod)); err != nil {
		return fmt.Errorf("record namespace %s: %w", pod, err)
	}
	return nil
}

func adopt(h *host.Host, n NetNS) error {
	a, err := host.Describe(n.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("adopt %s: %w: %w", n.Path, host.ErrWaiting, err)
	}
	if err != nil {
		return fmt.Errorf("adopt %s: %w", n.Path, err)
	}
	data, err := json.Marshal(a)
	if err != nil {
		return err
	}
	h.Wrote("record adopted namespace %s of pod %s", n.Path, n.Name)
	if err := h.WriteFile(h.AdoptedPath(n.Name), append(data, '\n')); err != nil {
		return fmt.Errorf("record adopted namespace %s: %w", n.Path, err)
	}
	return nil
}

// Update mends what Observe found at fault.
func (o Ops) Update(ctx context.Context, h *host.Host, from, to NetNS) error {
	switch {
	case to.Path != "":
		return adopt(h, to)
	case from.Faults == halfMade:
		return o.Create(ctx, h, to)
	}
	if err := reserve(h, to.Name); err != nil {
		return err
	}
	ns, err := h.NS(to.Name)
	if err != nil {
		return err
	}
	return mark(h, ns, to.Name)
}

// Delete removes the namespace of a pod with everything in it, or lets an adopted one go. Processes inside keep the
// namespace itself alive; they are named in a warning. Where Host.Keep is set it is only moved out of the way, without its
// links: Create brings it back.
func (Ops) Delete(_ context.Context, h *host.Host, n NetNS) error {
	if n.Path != "" {
		h.Drop(n.Name)
		if !exists(h.AdoptedPath(n.Name)) {
			return nil
		}
		h.Wrote("remove the record of adopted namespace %s of pod %s", n.Path, n.Name)
		return remove(h.AdoptedPath(n.Name))
	}
	path := filepath.Join(h.NetNSDir, n.Name)
	ns, err := h.NS(n.Name)
	switch {
	case err == nil:
		if err := empty(h, ns); err != nil {
			return err
		}
		if h.Keep.Load() {
			if err := setAside(h, n.Name, path); err != nil {
				return fmt.Errorf("set namespace %s aside: %w", path, err)
			}
		} else if err := h.WarnOfProcesses(path, path); err != nil {
			return err
		}
		h.Drop(n.Name)
		h.Wrote("unmount %s", path)
		if err := netns.Unbind(path); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if _, err := os.Lstat(h.ReservedPath(n.Name)); err != nil && ns == nil {
		return nil // nothing of ours: a file at the name is somebody else's
	}
	// What has the name now is a plain file: the mount point, or what a kill left of it.
	if _, err := netns.Stat(path); errors.Is(err, netns.ErrNotNetNS) {
		h.Wrote("remove %s", path)
		if err := remove(path); err != nil {
			return err
		}
	}
	// Prior values of settings inside died with the namespace.
	if prior := h.Path("prior", n.Name); exists(prior) {
		h.Wrote("remove %s", prior)
		if err := os.RemoveAll(prior); err != nil {
			return err
		}
	}
	if err := h.UnshareFolder(); err != nil {
		return err
	}
	// The record goes last: as long as it is there, the next run takes up what a kill left undone.
	h.Wrote("remove the record of namespace %s", n.Name)
	return remove(h.ReservedPath(n.Name))
}

// empty deletes our links inside, and with them their other ends: the kernel would do so only some time after the
// namespace is gone, and not at all while a process is inside.
func empty(h *host.Host, ns *host.NS) error {
	ns.Forget()
	links, err := ns.Links()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Name == "lo" || l.Group != resource.Group {
			continue
		}
		req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
		msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
		msg.Index = int32(l.Index)
		req.AddData(msg)
		h.Wrote("delete link %s/%s", ns.Name, l.Name)
		if err := ns.Request(req); err != nil && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("delete link %s/%s: %w", ns.Name, l.Name, err)
		}
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
