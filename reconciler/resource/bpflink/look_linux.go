package bpflink

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Folders of files that aren't of a pod: no pod can have these names.
const (
	rootFolder   = "_root"
	cgroupFolder = "_cgroup"
)

// attachTypes are the hooks as the kernel counts them.
var attachTypes = map[string]ebpf.AttachType{
	Ingress:        ebpf.AttachTCXIngress,
	Egress:         ebpf.AttachTCXEgress,
	"connect4":     ebpf.AttachCGroupInet4Connect,
	"connect6":     ebpf.AttachCGroupInet6Connect,
	"sendmsg4":     ebpf.AttachCGroupUDP4Sendmsg,
	"sendmsg6":     ebpf.AttachCGroupUDP6Sendmsg,
	"recvmsg4":     ebpf.AttachCGroupUDP4Recvmsg,
	"recvmsg6":     ebpf.AttachCGroupUDP6Recvmsg,
	"getpeername4": ebpf.AttachCgroupInet4GetPeername,
	"getpeername6": ebpf.AttachCgroupInet6GetPeername,
	"sock_release": ebpf.AttachCgroupInetSockRelease,
	XDP:            ebpf.AttachXDP,
}

// folder is where the files of a namespace's attachments are, or those of the cgroup's.
func (a Attachment) folder() string {
	switch {
	case a.Dev == "":
		return cgroupFolder
	case a.NetNS == "":
		return rootFolder
	}
	return a.NetNS
}

// file is the file of an attachment.
func (a Attachment) file(h *host.Host) string {
	name := a.Hook
	if a.Dev != "" {
		name = a.Dev + "." + a.Hook
	}
	return h.BPFPath(host.BPFLinkFolder, a.folder(), name)
}

// filed are the attachments that a file is about; none where it isn't of this kind. The mark of a device's qdisc is about
// both hooks: somebody may have removed their own files.
func filed(folder, name string) []Attachment {
	name, rest := strings.CutSuffix(name, unfinished)
	if folder == cgroupFolder {
		if attachTypes[name] == 0 {
			return nil
		}
		a := Attachment{Hook: name}
		if rest {
			a.Way = Attach
		}
		return []Attachment{a}
	}
	dot := strings.LastIndexByte(name, '.')
	if dot <= 0 {
		return nil
	}
	a := Attachment{NetNS: folder, Dev: name[:dot], Hook: name[dot+1:]}
	if folder == rootFolder {
		a.NetNS = ""
	}
	switch a.Hook {
	case Ingress, Egress:
		if rest {
			a.Way = Clsact
		}
		return []Attachment{a}
	case XDP:
		if a.Way = Link; rest {
			a.Way = Netlink
		}
		return []Attachment{a}
	case qdiscMark:
		in, out := a, a
		in.Hook, in.Way = Ingress, Clsact
		out.Hook, out.Way = Egress, Clsact
		return []Attachment{in, out}
	}
	return nil
}

// found is what is on one hook.
type found struct {
	Attachment
	file   bool // there is one
	rests  bool // of what plumb didn't finish, or whose file somebody removed
	live   bool // something of ours runs
	at     int  // index of the device, or 0
	mtu    int  // of the device of an XDP hook
	cgroup string
	run    uint32     // the kernel's number of the program that runs, of one that is attached without a link
	noted  []uint32   // programs that the record says we attached; they may be gone
	more   []attached // ours that shouldn't be there
	others []uint32   // programs of somebody else behind ours
	// alone says that somebody else's program lets no other be beside it.
	alone bool
}

// attached is one program on a hook.
type attached struct{ program, link uint32 }

// known are the pinned programs by the kernel's number, of those that are as they should be.
func known(h *host.Host) (map[uint32]string, error) {
	programs, err := h.BPFPrograms()
	if err != nil {
		return nil, err
	}
	names := make(map[uint32]string, len(programs))
	for _, p := range programs {
		if p.ID != 0 && p.Fault == "" {
			names[p.ID] = p.Name
		}
	}
	return names, nil
}

func programID(name string) resource.ID {
	if name == "" {
		return resource.ID{}
	}
	return resource.ID{Kind: "bpfprog", Name: name}
}

// look finds out what is on the hook of a, whose Way says where to look beside its file. The calling thread is in the
// namespace of the device, which has that index, or 0 if it is gone.
func look(h *host.Host, ns *host.NS, a Attachment, index int, programs map[uint32]string) (*found, error) {
	f := &found{Attachment: Attachment{NetNS: a.NetNS, Dev: a.Dev, Hook: a.Hook, Way: a.Way}, at: index, cgroup: h.Cgroup}
	var kept *host.BPFLink
	l, err := host.ReadBPFLink(f.Attachment.file(h))
	switch {
	case errors.Is(err, host.ErrBPFType):
		f.file, f.Fault = true, detached
	case errors.Is(err, fs.ErrNotExist): // the records of what isn't a link lead nowhere
		record, err := os.Readlink(f.Attachment.file(h))
		if err == nil {
			f.file = true
			f.read(record)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read the record of %s: %w", a.ID(), err)
		}
	case err != nil:
		return nil, fmt.Errorf("read the link of %s: %w", a.ID(), err)
	default:
		f.file, kept = true, &l
		f.Way = TCX
		if a.Dev == "" || a.Hook == XDP {
			f.Way = Link
		}
	}
	switch {
	case a.Dev == "":
		err = f.lookCgroup(kept, programs, a.Program.Name)
		if err == nil && f.cgroup != h.Cgroup {
			f.Fault = moved
		}
	case a.Hook == XDP:
		err = f.lookXDP(ns, kept, programs)
	case f.Way == TCX:
		err = f.lookTCX(kept, programs)
	default:
		err = f.lookClsact(ns, programs)
	}
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", a.ID(), err)
	}
	switch {
	case f.Fault != "":
	case f.file && !f.live:
		f.Fault = detached
	case len(f.more) > 0:
		f.Fault = twice
	case !f.ours() && f.hasRests(h):
		f.rests, f.Fault = true, detached
	}
	return f, nil
}

// hasRests looks for other files on a hook that has none of its own: a record that isn't in its place yet, or the mark of
// a qdisc that neither hook uses.
func (f *found) hasRests(h *host.Host) bool {
	there := func(path string) bool {
		_, err := os.Lstat(path)
		return err == nil
	}
	if there(f.Attachment.file(h) + unfinished) {
		return true
	}
	if f.Way != Clsact || !there(marker(h, f.Attachment)) && !there(marker(h, f.Attachment)+unfinished) {
		return false
	}
	other := f.Attachment
	if other.Hook = Ingress; f.Hook == Ingress {
		other.Hook = Egress
	}
	return !there(other.file(h))
}

// ours reports whether there is anything that plumb must know of.
func (f *found) ours() bool { return f.file || f.rests || f.live || len(f.more) > 0 }

func (f *found) lookTCX(kept *host.BPFLink, programs map[uint32]string) error {
	if kept != nil {
		f.Program = programID(programs[kept.Program])
		f.live = kept.Device() != 0
	}
	if f.at == 0 {
		if f.live {
			f.Fault = moved
		}
		return nil
	}
	on, err := host.QueryBPF(f.at, attachTypes[f.Hook], true)
	if err != nil {
		return err
	}
	here := false
	for i, id := range on.Programs {
		switch name := programs[id]; {
		case kept != nil && on.Links[i] == kept.ID:
			here = true
			f.others = nil
		case name != "":
			f.more = append(f.more, attached{id, on.Links[i]})
		default:
			f.others = append(f.others, id)
		}
	}
	if !here {
		f.others = nil
		if f.live {
			f.Fault = moved // to a device of another index, or the same index in another namespace
		}
	}
	return nil
}

func (f *found) lookCgroup(kept *host.BPFLink, programs map[uint32]string, want string) error {
	if f.cgroup == "" {
		if kept == nil {
			return errors.New("no cgroup2 file system is mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup, or name a folder by --cgroup")
		}
		return nil
	}
	if kept != nil {
		id, err := cgroupID(f.cgroup)
		if err != nil {
			return err
		}
		f.Program = programID(programs[kept.Program])
		f.live = kept.Cgroup() != 0
		if f.live && kept.Cgroup() != id {
			f.Fault = moved
		}
	}
	dir, err := os.Open(f.cgroup)
	if errors.Is(err, fs.ErrNotExist) && f.file {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the cgroup: %w", err)
	}
	defer dir.Close()
	on, err := host.QueryBPF(int(dir.Fd()), attachTypes[f.Hook], false)
	if err != nil {
		return err
	}
	own := kept != nil && f.live && f.Fault == ""
	for _, id := range on.Programs {
		switch name := programs[id]; {
		case own && id == kept.Program:
			own = false // the link's own, once
		case name == "" && !slices.Contains(f.noted, id):
			f.alone = f.alone || !on.Multi
		case !f.live && f.Way == Attach:
			f.live, f.run, f.Program = true, id, programID(name)
		default:
			f.more = append(f.more, attached{program: id})
		}
	}
	for i, x := range f.more {
		// A kill between attaching the new one and detaching the old: the new one is the one.
		if f.run != 0 && want != "" && f.Program.Name != want && programs[x.program] == want {
			f.more[i].program, f.run, f.Program = f.run, x.program, programID(want)
		}
	}
	return nil
}

// noted is the record of what is attached to a cgroup without a link: "attach 12,15 /sys/fs/cgroup". It names the programs
// by the kernel's numbers, so that they are known when their pins are gone.
func noted(cgroup string, programs ...uint32) string {
	var ids []string
	for _, id := range programs {
		if id != 0 {
			ids = append(ids, strconv.FormatUint(uint64(id), 10))
		}
	}
	return Attach + " " + strings.Join(ids, ",") + " " + cgroup
}

// read takes a record apart; that of clsact is one word.
func (f *found) read(record string) {
	part := strings.SplitN(record, " ", 3)
	f.Way = part[0]
	if len(part) < 3 {
		return
	}
	if f.Way == Attach {
		f.cgroup = part[2]
	}
	for id := range strings.SplitSeq(part[1], ",") {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil {
			f.noted = append(f.noted, uint32(n))
		}
	}
}

// cgroupID is the kernel's number of a cgroup.
func cgroupID(path string) (uint64, error) {
	handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, path, 0)
	if err != nil {
		return 0, fmt.Errorf("ask for the id of cgroup %s: %w", path, err)
	}
	b := handle.Bytes()
	if len(b) < 8 {
		return 0, fmt.Errorf("ask for the id of cgroup %s: %d bytes long", path, len(b))
	}
	var id uint64
	for _, c := range slices.Backward(b[:8]) {
		id = id<<8 | uint64(c)
	}
	return id, nil
}
