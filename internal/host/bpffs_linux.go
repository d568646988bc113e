package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Folders below the node's own one of the BPF file system.
const (
	BPFMapFolder     = "maps"
	BPFProgramFolder = "progs"
	BPFLinkFolder    = "links"
)

// The BPF file system keeps names with dots for itself. A colon stands for them: no device, node or pod has one in its
// name.

// BPFFileName is how the BPF file system has a name.
func BPFFileName(name string) string { return strings.ReplaceAll(name, ".", ":") }

// BPFName is the name that a file of the BPF file system stands for.
func BPFName(file string) string { return strings.ReplaceAll(file, ":", ".") }

// BPFPath is a path below the node's folder of the BPF file system.
func (h *Host) BPFPath(elem ...string) string {
	path := []string{h.BPFFS}
	for _, e := range elem {
		path = append(path, BPFFileName(e))
	}
	return filepath.Join(path...)
}

// BPFNames lists what is in a folder of the BPF file system; nothing where there is no such folder.
func (h *Host) BPFNames(elem ...string) ([]string, error) {
	if h.BPFFS == "" {
		return nil, nil
	}
	files, err := os.ReadDir(h.BPFPath(elem...))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the BPF file system: %w", err)
	}
	names := make([]string, 0, len(files))
	for _, f := range files {
		names = append(names, BPFName(f.Name()))
	}
	return names, nil
}

// NeedBPFFS fails where the node's folder wouldn't be on a BPF file system: pins can be kept nowhere else.
func (h *Host) NeedBPFFS() error {
	dir := h.BPFFS
	if dir == "" {
		return errors.New("keep eBPF objects: no folder of a BPF file system is given")
	}
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if errors.Is(err, unix.ENOENT) && dir != filepath.Dir(dir) {
			dir = filepath.Dir(dir)
			continue
		}
		if err != nil {
			return fmt.Errorf("look for the BPF file system at %s: %w", dir, err)
		}
		if uint32(st.Type) == unix.BPF_FS_MAGIC {
			return nil
		}
		mount := filepath.Dir(filepath.Dir(h.BPFFS)) // MOUNT/plumb/NODE
		return fmt.Errorf("keep eBPF objects below %s: no BPF file system is mounted there: mount -t bpf bpf %s, "+
			"or name the mount by --bpffs", h.BPFFS, mount)
	}
}

// MakeBPFFolder makes a folder of the BPF file system, and those above it, for root alone.
func (h *Host) MakeBPFFolder(elem ...string) error {
	dir := h.BPFPath(elem...)
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	if err := h.NeedBPFFS(); err != nil {
		return err
	}
	h.Wrote("mkdir %s", dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make a folder of the BPF file system: %w", err)
	}
	return nil
}

// RemoveBPFFolders removes the node's folder of the BPF file system with the folders in it. What is still pinned there
// stays, and is the error.
func (h *Host) RemoveBPFFolders() error {
	if h.BPFFS == "" {
		return nil
	}
	var dirs []string
	err := filepath.WalkDir(h.BPFFS, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list the BPF file system: %w", err)
	}
	for _, dir := range slices.Backward(dirs) {
		h.Wrote("rmdir %s", dir)
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove a folder of the BPF file system: %w", err)
		}
	}
	return nil
}
