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

// NeedBPFFS fails where the node's folder wouldn't be on a BPF file system, not even once plumb has mounted one: pins can
// be kept nowhere else.
func (h *Host) NeedBPFFS() error {
	_, err := h.lacksBPFFS()
	return err
}

// lacksBPFFS reports whether a BPF file system has still to be mounted for the node's folder. It fails where plumb can't.
func (h *Host) lacksBPFFS() (bool, error) {
	dir := h.BPFFS
	if dir == "" {
		return false, errors.New("keep eBPF objects: no folder of a BPF file system is given")
	}
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if errors.Is(err, unix.ENOENT) && dir != filepath.Dir(dir) {
			dir = filepath.Dir(dir)
			continue
		}
		if err != nil {
			return false, fmt.Errorf("look for the BPF file system at %s: %w", dir, err)
		}
		if uint32(st.Type) == unix.BPF_FS_MAGIC {
			return false, nil
		}
		mount := h.bpffsMount()
		if dir == mount && mount == BPFFSMount {
			return true, nil
		}
		return false, fmt.Errorf("keep eBPF objects below %s: no BPF file system is mounted there: mount -t bpf bpf %s, "+
			"or name the mount by --bpffs", h.BPFFS, mount)
	}
}

// BPFFSMount is where the BPF file system is mounted on most machines.
const BPFFSMount = "/sys/fs/bpf"

// bpffsMount is the mount that the node's folder is below: MOUNT/plumb/NODE.
func (h *Host) bpffsMount() string { return filepath.Dir(filepath.Dir(h.BPFFS)) }

// mountBPFFS mounts the BPF file system in its usual place where nobody has, as tc and bpftool do. Others may use it from
// then on, so it stays.
func (h *Host) mountBPFFS() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	lacks, err := h.lacksBPFFS()
	if err != nil || !lacks {
		return err
	}
	h.Wrote("mount the BPF file system at %s", BPFFSMount)
	if err := unix.Mount("bpf", BPFFSMount, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700"); err != nil {
		return fmt.Errorf("mount the BPF file system at %s: %w", BPFFSMount, err)
	}
	return nil
}

// MakeBPFFolder makes a folder of the BPF file system, and those above it, for root alone.
func (h *Host) MakeBPFFolder(elem ...string) error {
	dir := h.BPFPath(elem...)
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	if err := h.mountBPFFS(); err != nil {
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
