package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/netns"
)

// The record that says what InFolder did to the folder of namespaces, so that the last namespace that goes can undo it.
const sharedFolder = "netns-folder"

// InFolder makes the folder of namespaces ready for names, as ip-netns(8) does: a mount of its own, so that names show in
// other mount namespaces too. Then it runs fn, which adds a name; meanwhile the folder stays as it is.
func (h *Host) InFolder(fn func() error) error {
	// Twice at most is enough but where another node removes the folder at this very moment.
	for try := 0; ; try++ {
		h.folder.RLock()
		ready, err := h.folderReady()
		if ready || err == nil && try == 3 {
			defer h.folder.RUnlock()
			return fn()
		}
		h.folder.RUnlock()
		if err != nil {
			return err
		}
		if err := h.shareFolder(); err != nil {
			return err
		}
	}
}

// folderReady reports whether the folder of namespaces is a mount that is shared. A mount of somebody else's stays as it
// is; by our record we know our own, of which a kill may have left the first half.
func (h *Host) folderReady() (bool, error) {
	if h.shared.Load() && netns.IsMount(h.NetNSDir) {
		return true, nil
	}
	mount, shared, err := netns.Mounted(h.NetNSDir)
	h.shared.Store(shared)
	if err != nil || !mount || shared {
		return shared, err
	}
	_, err = os.Lstat(h.Path(sharedFolder))
	return errors.Is(err, fs.ErrNotExist), nil
}

func (h *Host) shareFolder() error {
	h.folder.Lock()
	defer h.folder.Unlock()
	if ready, err := h.folderReady(); ready || err != nil {
		return err
	}
	_, err := os.Lstat(h.NetNSDir)
	missing := errors.Is(err, fs.ErrNotExist)
	// A record that is there already is of a run that was cut off here, and knows whether we made the folder.
	if _, err := os.Lstat(h.Path(sharedFolder)); err != nil {
		made := ""
		if missing {
			made = "made"
		}
		h.Wrote("record that %s is shared", h.NetNSDir)
		if err := h.WriteFile(h.Path(sharedFolder), []byte(made)); err != nil {
			return fmt.Errorf("record the folder of namespaces: %w", err)
		}
	}
	if missing {
		h.Wrote("mkdir %s", h.NetNSDir)
		if err := os.MkdirAll(h.NetNSDir, 0o755); err != nil {
			return fmt.Errorf("make the folder of namespaces: %w", err)
		}
	}
	return netns.ShareDir(h.NetNSDir, h.Wrote)
}

// UnshareFolder undoes what InFolder did, once nobody has a name in the folder any more.
func (h *Host) UnshareFolder() error {
	h.folder.Lock()
	defer h.folder.Unlock()
	made, err := os.ReadFile(h.Path(sharedFolder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the record of the folder of namespaces: %w", err)
	}
	files, err := os.ReadDir(h.NetNSDir)
	if err == nil && len(files) > 0 {
		return nil
	}
	mount, _, err := netns.Mounted(h.NetNSDir)
	if err != nil {
		return err
	}
	if mount {
		h.Wrote("umount %s", h.NetNSDir)
		// Not detached: should another node have put a name into it just now, the kernel refuses, and it stays.
		switch err := unix.Unmount(h.NetNSDir, unix.UMOUNT_NOFOLLOW); {
		case errors.Is(err, unix.EBUSY):
			return nil
		case err != nil:
			return fmt.Errorf("unmount %s: %w", h.NetNSDir, err)
		}
	}
	if string(made) != "" {
		h.Wrote("rmdir %s", h.NetNSDir)
		// Somebody may have begun to use it.
		if err := os.Remove(h.NetNSDir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			return fmt.Errorf("remove the folder of namespaces: %w", err)
		}
	}
	h.Wrote("remove the record that %s is shared", h.NetNSDir)
	return os.Remove(h.Path(sharedFolder))
}

// NewNS makes a namespace that nobody can see yet and runs setup in it, on a thread inside. It lives as long as the
// returned file.
func (h *Host) NewNS(setup func(ns *NS) error) (*os.File, error) {
	return netns.New(func() error {
		ns := &NS{h: h}
		if err := ns.connect(); err != nil {
			return err
		}
		defer ns.close()
		return setup(ns)
	})
}
