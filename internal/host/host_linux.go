package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/netns"
	"plumb.internal/plumb/reconciler/resource"
)

// Options say which host, and where plumb keeps what.
type Options struct {
	Node     string // the node's name
	RunDir   string // the node's own folder: /run/plumb/NODE
	NetNSDir string // where namespaces are named; default /run/netns
	BPFFS    string // the node's own folder of the BPF file system
	Cgroup   string // the node's cgroup2 folder
	// RootNS is a path to the node's root network namespace; default: the namespace of the calling thread.
	RootNS string
	// Machine is the folder below which the machine's own files are, /proc/irq and the like; default /.
	Machine string
}

// ErrWaiting says that an adopted namespace isn't there at present: its pod waits for it.
var ErrWaiting = errors.New("waiting for the adopted network namespace")

// Host is one host: its root network namespace, the namespaces of its pods, and plumb's folders. All methods are safe for
// concurrent use.
type Host struct {
	Options
	// OnWrite, if set before the first write, is called before every write: a test stops or kills there. It may panic.
	OnWrite func(n int, what string)
	// Keep is set for an apply that may be taken back: kinds keep what they delete where they couldn't make it again.
	Keep atomic.Bool

	writes  atomic.Int64
	root    *NS
	threads threads
	folder  sync.RWMutex // of the folder of namespaces: names are added under the read lock
	shared  atomic.Bool  // the folder was found to be a shared mount
	kept    sync.Map     // see Kept

	mu       sync.Mutex
	epoch    int               // grows with every Forget
	ns       map[string]*NS    // of pods, by name
	only     []string          // namespaces that Entries lists, besides the root; nil for all
	adopted  map[string]string // path by pod, of those that a desired state names
	warnings []string
	entries  cached[Entry]
	pids     cached[map[uint64][]int]
	maps     map[string][]BPFMap // open ones, by base
	programs cached[BPFProgram]
	opened   map[string]*ebpf.Program // by name
}

// Open makes the handles for the network namespace that the process runs in, or for that of Options.RootNS. It writes
// nothing.
func Open(o Options) (*Host, error) {
	o.NetNSDir = cmp.Or(o.NetNSDir, resource.NetNSDir)
	o.Machine = cmp.Or(o.Machine, "/")
	h := &Host{Options: o, ns: map[string]*NS{}, adopted: map[string]string{}}
	f, id, err := netns.Open(cmp.Or(o.RootNS, "/proc/thread-self/ns/net"))
	if err != nil {
		return nil, fmt.Errorf("open the root network namespace: %w", err)
	}
	defer f.Close()
	h.root = &NS{h: h, ID: id}
	if err := netns.Do(int(f.Fd()), h.root.connect); err != nil {
		return nil, fmt.Errorf("open the root network namespace: %w", err)
	}
	return h, nil
}

// Close lets every handle go.
func (h *Host) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.root.close()
	for _, ns := range h.ns {
		ns.close()
	}
	for _, ms := range h.maps {
		closeMaps(ms)
	}
	for _, p := range h.opened {
		p.Close()
	}
	h.threads.stop()
	return nil
}

// Forget drops everything that was read from the kernel, so that it is read again.
func (h *Host) Forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.epoch++
	if h.root != nil { // a zero Host only counts writes
		h.root.Forget()
	}
	for _, ns := range h.ns {
		ns.Forget()
	}
	clear(h.adopted)
	h.only = nil
	h.entries.forget()
	h.pids.forget()
	clear(h.maps)
	h.programs.forget()
	clear(h.opened)
}

// Only lets Entries, and with it Namespaces and Devices, list no namespaces but these (the root comes in any case), until Forget or
// with nil. It is for who knows where something happened: a thousand namespaces are read in a few hundred milliseconds.
func (h *Host) Only(names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.only = names
	h.entries.forget()
}

// Path is a path below the node's run folder.
func (h *Host) Path(elem ...string) string {
	return filepath.Join(append([]string{h.RunDir}, elem...)...)
}

// Wrote announces one single write to the kernel or the disk. It is called immediately before it.
func (h *Host) Wrote(format string, args ...any) {
	n := int(h.writes.Add(1))
	if h.OnWrite != nil {
		h.OnWrite(n, fmt.Sprintf(format, args...))
	}
}

// Writes is the number of writes so far.
func (h *Host) Writes() int { return int(h.writes.Load()) }

// Warn notes what a person should know and what is no error.
func (h *Host) Warn(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if w := fmt.Sprintf(format, args...); !slices.Contains(h.warnings, w) {
		h.warnings = append(h.warnings, w)
	}
}

// Warnings returns the notes of Warn so far, and drops them.
func (h *Host) Warnings() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.warnings
	h.warnings = nil
	return w
}

// Processes returns the ids of the processes that run in a namespace, this one left out. They are read once until Forget.
func (h *Host) Processes(id netns.ID) ([]int, error) {
	all, err := h.pids.get(func() ([]map[uint64][]int, error) {
		m, err := netns.Processes()
		return []map[uint64][]int{m}, err
	})
	if err != nil {
		return nil, fmt.Errorf("look for processes: %w", err)
	}
	return all[0][id.Ino], nil
}

// WarnOfProcesses warns of processes in the namespace at path, which is about to be gone from where people know it.
func (h *Host) WarnOfProcesses(path, from string) error {
	id, err := netns.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, netns.ErrNotNetNS) {
		return nil
	}
	if err != nil {
		return err
	}
	pids, err := h.Processes(id)
	if len(pids) > 0 {
		h.Warn("namespace %s is gone from %s, but lives on without links as long as processes are inside: %s",
			filepath.Base(from), from, strings.Trim(fmt.Sprint(pids), "[]"))
	}
	return err
}

// NS returns the handles for the namespace of a pod, or for the root namespace (""). Where there is no such namespace of
// ours the error wraps fs.ErrNotExist; where an adopted one is missing it wraps ErrWaiting as well.
func (h *Host) NS(name string) (*NS, error) {
	if name == "" {
		return h.root, nil
	}
	h.mu.Lock()
	ns := h.ns[name]
	fresh := ns != nil && ns.epoch == h.epoch
	h.mu.Unlock()
	if fresh {
		return ns, nil
	}
	path, adopted := h.path(name)
	if adopted {
		ns, err := h.enter(name, path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w of pod %s at %s: %w", ErrWaiting, name, path, err)
		}
		return ns, err
	}
	e, err := h.look(name)
	if err != nil {
		return nil, err
	}
	if e.NS == nil {
		return nil, fmt.Errorf("namespace %s is %s: %w", name, e.Owner, fs.ErrNotExist)
	}
	return e.NS, nil
}

// Device finds a device of a pod, or of the root namespace (""), as it is now. The error wraps fs.ErrNotExist where the
// namespace or the device is missing.
func (h *Host) Device(pod, name string) (ns *NS, index int, err error) {
	if ns, err = h.NS(pod); err != nil {
		return nil, 0, err
	}
	index, err = ns.LinkIndex(name)
	return ns, index, err
}

// enter returns the handles for the namespace at path, those that it has already where it is the same namespace.
func (h *Host) enter(name, path string) (*NS, error) {
	f, id, err := netns.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h.mu.Lock()
	old, epoch := h.ns[name], h.epoch
	if old != nil && old.ID == id {
		old.epoch = epoch
		h.mu.Unlock()
		return old, nil
	}
	h.mu.Unlock()
	ns := &NS{h: h, Name: name, Path: path, ID: id, epoch: epoch}
	if err := h.threads.do(int(f.Fd()), ns.connect); err != nil {
		return nil, fmt.Errorf("enter namespace %s: %w", name, err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch again := h.ns[name]; {
	case again != nil && again.ID == id:
		ns.close() // somebody was faster
		return again, nil
	case again != nil:
		again.close()
	}
	h.ns[name] = ns
	return ns, nil
}

// Drop lets the handles of a pod's namespace go: a namespace lives as long as a socket in it.
func (h *Host) Drop(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ns := h.ns[name]; ns != nil {
		ns.close()
		delete(h.ns, name)
	}
}

// Namespaces lists the names of the namespaces to look into: "" for the root, then those that carry our mark for this
// node, then the adopted ones that are there. Their tables have been read when it returns.
func (h *Host) Namespaces(ctx context.Context) ([]string, error) {
	entries, err := h.Entries(ctx)
	if err != nil {
		return nil, err
	}
	names := []string{""}
	for _, e := range entries {
		if e.NS != nil {
			names = append(names, e.Name)
		}
	}
	return names, nil
}

// CreateFile makes an empty file, if it isn't there yet, and the folders above it.
func (h *Host) CreateFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(path), 0o700); err == nil {
			f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_CLOEXEC, 0o600)
		}
	}
	if err != nil {
		return err
	}
	return f.Close()
}

// WriteFile puts data into a file so that after a crash there is the old content or the new, never a torn one.
func (h *Host) WriteFile(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".tmp")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = cmp.Or(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
