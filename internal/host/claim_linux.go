package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"plumb.internal/plumb/internal/netns"
)

// ErrElsewhere says that the node is at work in another network namespace than the one that the process runs in.
var ErrElsewhere = errors.New("in another network namespace")

// rootRecord is the record of the network namespace that is the node's root.
const rootRecord = "root"

// Elsewhere returns an error that wraps ErrElsewhere if the node's root is another network namespace, one that still
// lives. Its pods are found by name from everywhere, but not what belongs to them in the root, so that an apply or a
// destroy from here would take them apart.
func (h *Host) Elsewhere() error {
	id, err := h.recordedRoot()
	if err != nil || id == (netns.ID{}) || id == h.root.ID {
		return err
	}
	alive, err := h.alive(id)
	if err != nil || !alive {
		return err
	}
	return fmt.Errorf("node %s is at work %w, net:[%d], not in this one: nothing was touched (if that is wrong, remove %s)",
		h.Node, ErrElsewhere, id.Ino, h.Path(rootRecord))
}

// Settle records that the node's root is this network namespace, if that isn't recorded yet.
func (h *Host) Settle() error {
	id, err := h.recordedRoot()
	if err != nil || id == h.root.ID {
		return err
	}
	h.Wrote("record the root namespace of node %s", h.Node)
	if err := h.WriteFile(h.Path(rootRecord), []byte(h.root.ID.String()+"\n")); err != nil {
		return fmt.Errorf("record the root namespace: %w", err)
	}
	return nil
}

// recordedRoot is the zero ID where there is no record, or none that can be read.
func (h *Host) recordedRoot() (id netns.ID, err error) {
	b, err := os.ReadFile(h.Path(rootRecord))
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return id, fmt.Errorf("read the record of the root namespace: %w", err)
	}
	if _, err := fmt.Sscanf(strings.TrimSpace(string(b)), "%d:%d", &id.Dev, &id.Ino); err != nil {
		return netns.ID{}, nil
	}
	return id, nil
}

// alive reports whether a process is in a namespace, or a mount names it.
func (h *Host) alive(id netns.ID) (bool, error) {
	pids, err := h.Processes(id)
	if err != nil || len(pids) > 0 {
		return len(pids) > 0, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false, fmt.Errorf("look for namespaces: %w", err)
	}
	return bytes.Contains(mounts, fmt.Appendf(nil, " net:[%d] ", id.Ino)), nil
}
