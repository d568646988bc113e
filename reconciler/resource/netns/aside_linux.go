package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/netns"
)

// asideFolder holds, below the run folder, the namespaces that an apply deleted which may be taken back. Nothing looks into
// them there. A name in a shared mount can't be moved, so there is a new name before the old one goes.
const asideFolder = "aside"

func asidePath(h *host.Host, pod string) string { return h.Path(asideFolder, pod) }

// setAside gives a namespace a second name, out of the way.
func setAside(h *host.Host, pod, path string) error {
	f, id, err := netns.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	at := asidePath(h, pod)
	switch now, err := netns.Stat(at); {
	case err == nil && now == id:
		return nil // a run was cut off here
	case err == nil: // of an apply that nobody can take back any more
		if err := dropAside(h, pod); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, netns.ErrNotNetNS):
		return err
	}
	h.Wrote("create %s", at)
	if err := h.CreateFile(at); err != nil {
		return err
	}
	h.Wrote("mount the namespace at %s", at)
	return netns.Bind(f, at)
}

// bringBack gives a namespace that was set aside its name again, in a folder that is ready; to reclaim is to use a mount
// point that is there. It reports whether there was one.
func bringBack(h *host.Host, pod, path string, reclaim bool) (found bool, err error) {
	f, _, err := netns.Open(asidePath(h, pod))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, netns.ErrNotNetNS): // a run was cut off before it was set aside
		return false, dropAside(h, pod)
	case err != nil:
		return false, err
	}
	defer f.Close()
	if err := reserve(h, pod); err != nil {
		return true, err
	}
	if err := bind(h, f, pod, path, reclaim); err != nil {
		return true, err
	}
	return true, dropAside(h, pod)
}

// dropAside takes the second name away.
func dropAside(h *host.Host, pod string) error {
	at := asidePath(h, pod)
	h.Wrote("unmount %s", at)
	if err := netns.Unbind(at); err != nil {
		return err
	}
	h.Wrote("remove %s", at)
	return remove(at)
}

// DropAside deletes the namespaces that were set aside: nobody takes that apply back any more. Processes inside keep a
// namespace alive; they are named in a warning.
func DropAside(h *host.Host) error {
	files, err := os.ReadDir(h.Path(asideFolder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list the namespaces that were set aside: %w", err)
	}
	for _, f := range files {
		at, name := asidePath(h, f.Name()), filepath.Join(h.NetNSDir, f.Name())
		id, err := netns.Stat(at)
		if now, errNow := netns.Stat(name); err == nil && (errNow != nil || now != id) { // else it has its name again
			if err := h.WarnOfProcesses(at, name); err != nil {
				return err
			}
		}
		if err := dropAside(h, f.Name()); err != nil {
			return fmt.Errorf("delete namespace %s: %w", f.Name(), err)
		}
	}
	h.Wrote("remove %s", h.Path(asideFolder))
	return remove(h.Path(asideFolder))
}
