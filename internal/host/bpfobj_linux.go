package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/memlock"
)

// The library asks the kernel for much more than is needed to say which object this is, and tries things out by loading
// programs on the way. These are the bare calls. What they point to is pinned: the garbage collector and growing stacks
// know nothing of addresses in numbers.

// BPFProgram is a program that is pinned in the node's folder.
type BPFProgram struct {
	Name string   // of the pin: "from_pod.0123456789ab"
	ID   uint32   // of the kernel; 0 where the pin isn't a program
	Maps []string // that it uses, by the names of their pins
	// Fault says how it isn't what plumb has loaded; "" if it is. Maps of an earlier life, whose pins are gone, are one.
	Fault string
}

// BPFPrograms lists the pinned programs. They are read once until Forget or ForgetMaps.
func (h *Host) BPFPrograms() ([]BPFProgram, error) { return h.programs.get(h.readPrograms) }

func (h *Host) readPrograms() ([]BPFProgram, error) {
	names, err := h.BPFNames(BPFProgramFolder)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	pins, err := h.BPFNames(BPFMapFolder)
	if err != nil {
		return nil, err
	}
	byID := map[uint32]string{}
	for _, name := range pins {
		var info mapInfo
		err := withBPF(h.BPFPath(BPFMapFolder, name), "bpf-map", func(fd int) error { return bpfInfo(fd, &info) })
		if err == nil {
			byID[info.ID] = name
		}
	}
	programs := make([]BPFProgram, 0, len(names))
	for _, name := range names {
		p := BPFProgram{Name: name}
		err := withBPF(h.BPFPath(BPFProgramFolder, name), "bpf-prog", func(fd int) error { return p.read(fd, byID) })
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			p.Fault = err.Error()
		}
		programs = append(programs, p)
	}
	return programs, nil
}

const mostMaps = 64 // of one program; the kernel's own limit

func (p *BPFProgram) read(fd int, names map[uint32]string) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	ids := make([]uint32, mostMaps)
	pin.Pin(&ids[0])
	info := programInfo{NrMapIDs: mostMaps, MapIDs: uint64(uintptr(unsafe.Pointer(&ids[0])))}
	if err := bpfInfo(fd, &info); err != nil {
		return err
	}
	p.ID = info.ID
	base, _, _ := strings.Cut(p.Name, ".")
	if name := unix.ByteSliceToString(info.Name[:]); name != base[:min(len(base), len(info.Name)-1)] {
		p.Fault = fmt.Sprintf("is another program, %q", name)
		return nil
	}
	for _, id := range ids[:min(info.NrMapIDs, mostMaps)] {
		if name, ok := names[id]; ok {
			p.Maps = append(p.Maps, name)
			continue
		}
		var m mapInfo
		attr := struct{ id, next, flags uint32 }{id: id}
		fd, err := bpfCall(unix.BPF_MAP_GET_FD_BY_ID, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
		if err != nil {
			return fmt.Errorf("a map of program %s: %w", p.Name, err)
		}
		err = bpfInfo(fd, &m)
		unix.Close(fd)
		if err != nil {
			return fmt.Errorf("a map of program %s: %w", p.Name, err)
		}
		// The constants are a map of the program's own.
		if name := unix.ByteSliceToString(m.Name[:]); !strings.HasSuffix(name, "rodata") {
			p.Fault = "uses a map " + name + " that isn't pinned"
		}
	}
	slices.Sort(p.Maps)
	return nil
}

// BPFLink is what the kernel says of a link.
type BPFLink struct {
	Type, ID, Program uint32
	_                 uint32
	target            [2]uint32
}

// Types of links.
const (
	BPFLinkCgroup = 3
	BPFLinkXDP    = 6
	BPFLinkTCX    = 11
)

// Device is the index of the device that a link of tcx or XDP is attached to; 0 when that is gone.
func (l BPFLink) Device() int { return int(l.target[0]) }

// Cgroup is the id of the cgroup that a cgroup link is attached to; 0 when that is gone.
func (l BPFLink) Cgroup() uint64 { return *(*uint64)(unsafe.Pointer(&l.target)) }

// ReadBPFLink reads a pinned link. The error wraps fs.ErrNotExist where there is no such pin, and ErrBPFType where it is
// one of something else.
func ReadBPFLink(path string) (l BPFLink, err error) {
	// Of which kind a pin is would be one more call; other objects have other types in this place, but by chance.
	err = withBPF(path, "", func(fd int) error { return bpfInfo(fd, &l) })
	if err == nil && l.Type != BPFLinkCgroup && l.Type != BPFLinkXDP && l.Type != BPFLinkTCX {
		err = fmt.Errorf("%w: %s", ErrBPFType, path)
	}
	return l, err
}

// ErrBPFType says that a pin is of another type of object than it should be.
var ErrBPFType = errors.New("the pin is of another type")

// mapInfo and programInfo are the first parts of what the kernel tells.
type mapInfo struct {
	Type, ID, KeySize, ValueSize, MaxEntries, Flags uint32
	Name                                            [16]byte
}

type programInfo struct {
	Type, ID uint32
	_        [4]uint64 // tag, and the code, which nobody asks for
	_        uint64    // when it was loaded
	_        uint32    // by whom
	NrMapIDs uint32
	MapIDs   uint64
	Name     [16]byte
}

// withBPF opens a pin and checks of what it is, unless kind is "".
func withBPF(path, kind string, use func(fd int) error) error {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(name)
	attr := struct {
		path      uint64
		fd, flags uint32
	}{path: uint64(uintptr(unsafe.Pointer(name)))}
	fd, err := bpfCall(unix.BPF_OBJ_GET, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if kind == "" {
		return use(fd)
	}
	target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return err
	}
	if !strings.HasSuffix(target, kind) {
		return fmt.Errorf("%w: %s is a %s", ErrBPFType, path, strings.TrimPrefix(target, "anon_inode:"))
	}
	return use(fd)
}

// bpfInfo asks what an object is. info may be shorter or longer than what the kernel has to tell.
func bpfInfo[T any](fd int, info *T) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(info)
	attr := struct {
		fd, size uint32
		info     uint64
	}{uint32(fd), uint32(unsafe.Sizeof(*info)), uint64(uintptr(unsafe.Pointer(info)))}
	_, err := bpfCall(unix.BPF_OBJ_GET_INFO_BY_FD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return err
}

func bpfCall(cmd uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		r, _, errno := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), size)
		switch errno {
		case 0:
			return int(r), nil
		case unix.EINTR, unix.EAGAIN:
			continue
		}
		return -1, errno
	}
}

// BPFAttached are the programs on one hook, in the order in which they run.
type BPFAttached struct {
	Programs []uint32
	Links    []uint32 // by which they are attached, 0 for none; only of devices
	// Multi says that a cgroup lets several programs be beside each other; it says nothing where there is none.
	Multi bool
}

const mostAttached = 64 // on one hook; the kernel's own limit

// QueryBPF asks for the programs on a hook: of a device by its index, in the namespace of the calling thread, or of a
// cgroup by a descriptor.
func QueryBPF(target int, attach ebpf.AttachType, device bool) (*BPFAttached, error) {
	var programs, links [mostAttached]uint32
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&programs)
	attr := struct {
		target, attach, query, flags uint32
		programs                     uint64
		count, _                     uint32
		programFlags, links          uint64
		linkFlags, revision          uint64
	}{target: uint32(target), attach: uint32(attach), programs: uint64(uintptr(unsafe.Pointer(&programs))), count: mostAttached}
	size := unsafe.Offsetof(attr.programFlags) // what every kernel knows
	if device {
		pin.Pin(&links)
		attr.links = uint64(uintptr(unsafe.Pointer(&links)))
		size = unsafe.Sizeof(attr)
	}
	if _, err := bpfCall(unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), size); err != nil {
		return nil, fmt.Errorf("ask for the programs on a hook: %w", err)
	}
	n := min(attr.count, mostAttached)
	return &BPFAttached{slices.Clone(programs[:n]), slices.Clone(links[:n]), attr.flags&unix.BPF_F_ALLOW_MULTI != 0}, nil
}

// BPFProgram opens a pinned program. It stays open until the next Forget or ForgetMaps; the caller doesn't close it.
func (h *Host) BPFProgram(name string) (*ebpf.Program, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.opened[name]; p != nil {
		return p, nil
	}
	_ = memlock.Lift() // the library tries out what this kernel can; without the limit it finds out
	p, err := ebpf.LoadPinnedProgram(h.BPFPath(BPFProgramFolder, name), nil)
	if err != nil {
		return nil, fmt.Errorf("open program %s: %w", name, err)
	}
	if h.opened == nil {
		h.opened = map[string]*ebpf.Program{}
	}
	h.opened[name] = p
	return p, nil
}
