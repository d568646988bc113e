package host

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"plumb.internal/plumb/internal/netns"
	"plumb.internal/plumb/reconciler/resource"
)

// Entry is what is at the name of one namespace of ours, or of somebody else's.
type Entry struct {
	Name string
	// NS are the handles, where it is a namespace of ours (or an adopted one); nil otherwise.
	NS *NS
	// Reserved says that our record reserves the name. With no NS that is what a killed creation or deletion left.
	Reserved bool
	// File says that something is at the name.
	File bool
	// Owner says whose it is, in words, where it isn't ours: "not marked as plumb's".
	Owner string
	// Adopted is the record of an adopted namespace, nil for others.
	Adopted *Adopted
}

// Mine reports whether plumb may change what is there.
func (e Entry) Mine() bool { return e.Owner == "" }

// Adopted is the record of an existing namespace that a pod uses.
type Adopted struct {
	Path  string `json:"path"`
	NS    string `json:"netns"`           // dev:inode
	Start string `json:"start,omitempty"` // when the process of /proc/PID/ns/net started, in the kernel's own count
}

// Folders of records below the run folder.
const (
	reserved = "netns"
	adopted  = "adopted"
)

// ReservedPath is the record that reserves the name of a namespace.
func (h *Host) ReservedPath(name string) string { return h.Path(reserved, name) }

// AdoptedPath is the record of an adopted namespace.
func (h *Host) AdoptedPath(name string) string { return h.Path(adopted, name+".json") }

// Alias is the alias of links that belong to a pod of this node; with "" it is that of the node's own links.
func (h *Host) Alias(pod string) string { return resource.AliasPrefix + h.Node + "/" + pod }

// OtherNode reports which plumb node an alias names, if it is another than this one.
func (h *Host) OtherNode(alias string) (node string, other bool) {
	rest, ok := strings.CutPrefix(alias, resource.AliasPrefix)
	if !ok {
		return "", false
	}
	node, _, _ = strings.Cut(rest, "/")
	return node, node != h.Node
}

// Adopt says where the namespace of a pod is, for a pod whose desired state names a path and that may have no record yet.
// It holds until Forget, and writes nothing.
func (h *Host) Adopt(pod, path string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.adopted[pod] != path {
		h.adopted[pod] = path
		h.entries.forget()
		if ns := h.ns[pod]; ns != nil {
			ns.epoch = -1 // look again
		}
	}
}

// Waiting reports whether the adopted namespace that a pod should use is missing at present.
func (h *Host) Waiting(pod string) bool {
	h.mu.Lock()
	path := h.adopted[pod]
	h.mu.Unlock()
	if path == "" {
		a, err := h.record(pod)
		if err != nil || a == nil {
			return false
		}
		path = a.Path
	}
	_, err := netns.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}

// Adopted reports whether the namespace of a pod is somebody else's.
func (h *Host) Adopted(pod string) bool {
	_, adopted := h.path(pod)
	return adopted
}

// path is where the namespace of a pod is. What is recorded goes before what is wanted: as long as an old namespace
// hasn't been let go, it is the one that holds our objects.
func (h *Host) path(pod string) (path string, adopted bool) {
	if a, err := h.record(pod); err == nil && a != nil {
		return a.Path, true
	}
	own := filepath.Join(h.NetNSDir, pod)
	if _, err := os.Lstat(h.ReservedPath(pod)); err == nil {
		return own, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if path := h.adopted[pod]; path != "" {
		return path, true
	}
	return own, false
}

// record reads the record of an adopted namespace; nil without one.
func (h *Host) record(pod string) (*Adopted, error) {
	b, err := os.ReadFile(h.AdoptedPath(pod))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of an adopted namespace: %w", err)
	}
	var a Adopted
	if err := json.Unmarshal(b, &a); err != nil {
		return nil, fmt.Errorf("read %s: %w", h.AdoptedPath(pod), err)
	}
	return &a, nil
}

// Describe is the record that an adopted namespace should have now.
func Describe(path string) (*Adopted, error) {
	id, err := netns.Stat(path)
	if err != nil {
		return nil, err
	}
	a := &Adopted{Path: path, NS: id.String()}
	var pid int
	if n, err := fmt.Sscanf(path, "/proc/%d/", &pid); n == 1 && err == nil {
		// The 22nd field; the 2nd is the name in parentheses and may hold anything.
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil {
			if f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:])); len(f) > 19 {
				a.Start = f[19]
			}
		}
	}
	return a, nil
}

// Entries lists every name that is in the folder of namespaces or that a record reserves, and every adopted namespace,
// in order. The tables of those that are ours have been read when it returns; of a foreign namespace only the links.
func (h *Host) Entries(ctx context.Context) ([]Entry, error) {
	return h.entries.get(func() ([]Entry, error) { return h.readEntries(ctx) })
}

func (h *Host) readEntries(ctx context.Context) ([]Entry, error) {
	names := map[string]*Entry{}
	get := func(name string) *Entry {
		if names[name] == nil {
			names[name] = &Entry{Name: name}
		}
		return names[name]
	}
	for _, dir := range []string{h.NetNSDir, h.Path(reserved), h.Path(adopted)} {
		files, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list namespaces: %w", err)
		}
		for _, f := range files {
			name := f.Name()
			switch {
			case strings.HasPrefix(name, "."):
			case dir == h.NetNSDir:
				get(name).File = true
			case f.IsDir():
			case dir == h.Path(reserved):
				get(name).Reserved = true
			default:
				name, ok := strings.CutSuffix(name, ".json")
				if !ok {
					continue
				}
				a, err := h.record(name)
				if err != nil {
					return nil, err
				}
				get(name).Adopted = a
			}
		}
	}
	h.mu.Lock()
	only := h.only
	for pod, path := range h.adopted {
		if e := get(pod); e.Adopted == nil && !e.Reserved {
			e.Adopted = &Adopted{Path: path}
		}
	}
	h.mu.Unlock()

	if only != nil {
		maps.DeleteFunc(names, func(name string, _ *Entry) bool { return !slices.Contains(only, name) })
	}
	list := slices.SortedFunc(maps.Values(names), func(a, b *Entry) int { return cmp.Compare(a.Name, b.Name) })
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	group.Go(h.root.prefetch) // the root's tables are the largest: first
	for _, e := range list {
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := h.classify(e); err != nil || e.NS == nil {
				return err
			}
			if err := e.NS.prefetch(); err != nil {
				return fmt.Errorf("namespace %s: %w", e.Name, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	entries := make([]Entry, len(list))
	there := make(map[string]bool, len(list))
	for i, e := range list {
		entries[i] = *e
		there[e.Name] = e.NS != nil
	}
	h.dropAll(func(name string) bool { return !there[name] }) // whose names are gone: they live as long as a socket in them
	return entries, nil
}

// LetGo drops the handles of adopted namespaces: whoever rests now must not keep a dead container's alive meanwhile.
func (h *Host) LetGo() {
	entries, err := os.ReadDir(h.Path(adopted))
	if err != nil || len(entries) == 0 {
		return
	}
	records := map[string]bool{}
	for _, e := range entries {
		records[e.Name()] = true
	}
	h.dropAll(func(name string) bool { return records[name+".json"] })
}

func (h *Host) dropAll(which func(name string) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, ns := range h.ns {
		if which(name) {
			ns.close()
			delete(h.ns, name)
		}
	}
}

// look classifies one name as it is now.
func (h *Host) look(name string) (*Entry, error) {
	e := &Entry{Name: name}
	if _, err := os.Lstat(h.ReservedPath(name)); err == nil {
		e.Reserved = true
	}
	if _, err := os.Lstat(filepath.Join(h.NetNSDir, name)); err != nil {
		e.Owner = "missing"
		return e, nil
	}
	e.File = true
	err := h.classify(e)
	if e.NS != nil {
		e.NS.Forget() // read in the middle of an apply
	}
	return e, err
}

// classify finds out whose namespace it is that has a name, from a dump of its links alone.
func (h *Host) classify(e *Entry) error {
	if e.Adopted != nil {
		ns, err := h.enter(e.Name, e.Adopted.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // waiting
		case errors.Is(err, netns.ErrNotNetNS):
			e.Owner = "not a network namespace"
			return nil
		case err == nil && ns.ID == h.root.ID:
			e.Owner = "the node's root network namespace itself"
			h.Drop(e.Name)
			return nil
		}
		e.NS = ns
		return err
	}
	if !e.File {
		return nil // a record alone
	}
	ns, err := h.enter(e.Name, filepath.Join(h.NetNSDir, e.Name))
	switch {
	case errors.Is(err, netns.ErrNotNetNS), errors.Is(err, fs.ErrNotExist):
		e.Owner, e.File = h.noNamespace(e)
		return nil
	case err != nil:
		return err
	}
	links, err := ns.Links()
	if err != nil {
		return fmt.Errorf("namespace %s: %w", e.Name, err)
	}
	if e.Owner = h.owner(links, e); e.Owner != "" {
		h.Drop(e.Name) // keep nothing of somebody else's alive
		return nil
	}
	e.NS = ns
	return nil
}

// noNamespace says what is at a name that isn't a namespace's, and whether there is anything. A plain file under a name
// that is reserved is what a kill left of ours.
func (h *Host) noNamespace(e *Entry) (owner string, there bool) {
	st, err := os.Lstat(filepath.Join(h.NetNSDir, e.Name))
	switch {
	case err != nil:
		return "", false
	case st.IsDir():
		return "a folder", true
	case st.Mode()&fs.ModeSymlink != 0:
		return "a symbolic link", true
	case !e.Reserved:
		return "a plain file", true
	}
	return "", true
}

// owner says who marked a namespace, in words; "" for this node. Group and alias of lo are the mark. The alias is enough,
// and the group together with our record, so that the other can be mended.
func (h *Host) owner(links []*Link, e *Entry) string {
	for _, l := range links {
		if l.Name != "lo" {
			continue
		}
		node, other := h.OtherNode(l.Alias)
		switch {
		case other:
			return "plumb node " + node + "'s"
		case l.Alias == h.Alias(e.Name):
			return ""
		case node != "":
			return "pod " + strings.TrimPrefix(l.Alias, h.Alias("")) + "'s under another name"
		case l.Group == resource.Group && e.Reserved:
			return ""
		}
	}
	return resource.Unmarked
}
