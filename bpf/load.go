package bpf

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unsafe"

	"github.com/cilium/ebpf"
)

// Layout is how one map is made. Its size is not part of it.
type Layout struct {
	// Version is in the name of every pinned map. Give a map the next one when its entries change their shape or meaning, and a
	// field whose meaning changes another name: by their names fields are taken over from other versions.
	Version    int
	Type       ebpf.MapType
	Key, Value uint32 // bytes
	Flags      uint32
	Lives      Lives
}

// Lives says what becomes of the entries of a map when another one takes its place.
type Lives int

// What is with the entries of a map.
const (
	Lost       Lives = iota // they start anew
	Configured              // plumb writes them
	Learnt                  // the programs write them, and connections depend on them
)

const noPrealloc = 1 // BPF_F_NO_PREALLOC of linux/bpf.h

// Layouts are the maps of all objects by their names in C. A test compares them with the objects.
var Layouts = func() map[string]Layout {
	hash := func(key, value uintptr) Layout {
		return Layout{1, ebpf.Hash, uint32(key), uint32(value), noPrealloc, Configured}
	}
	lru := func(key, value uintptr, lives Lives) Layout {
		return Layout{1, ebpf.LRUHash, uint32(key), uint32(value), 0, lives}
	}
	ls := map[string]Layout{
		"frontends":    hash(unsafe.Sizeof(FrontendKey{}), unsafe.Sizeof(Frontend{})),
		"slots":        hash(unsafe.Sizeof(SlotKey{}), unsafe.Sizeof(Backend{})),
		"members":      hash(unsafe.Sizeof(MemberKey{}), 4),
		"namespaces":   hash(8, 4),
		"endpoints":    hash(unsafe.Sizeof(Address{}), unsafe.Sizeof(Endpoint{})),
		"paces":        hash(unsafe.Sizeof(Address{}), unsafe.Sizeof(Pace{})),
		"macs":         hash(8, 4),
		"uplinks":      hash(4, 4),
		"affinities":   lru(unsafe.Sizeof(AffinityKey{}), unsafe.Sizeof(Affinity{}), Learnt),
		"sock_reverse": lru(unsafe.Sizeof(PeerKey{}), unsafe.Sizeof(Peer{}), Learnt),
		"sock_forward": lru(unsafe.Sizeof(PeerKey{}), unsafe.Sizeof(Peer{}), Learnt),
		"flows":        lru(unsafe.Sizeof(FlowKey{}), unsafe.Sizeof(Flow{}), Learnt),
		"asked":        lru(unsafe.Sizeof(FlowKey{}), 4, Learnt),
		"excluded":     {1, ebpf.LPMTrie, uint32(unsafe.Sizeof(Prefix{})), 4, noPrealloc, Configured},
		"fragments":    lru(40, 4, Lost), // they live for a moment
		"marked":       {1, ebpf.Array, 4, 1 << 17, 0, Learnt},
		"swept":        {1, ebpf.Array, 4, uint32(unsafe.Sizeof(Swept{})), 0, Lost},
		"counters":     {1, ebpf.PerCPUArray, 4, uint32(unsafe.Sizeof(Counted{})), 0, Lost},
	}
	for class, slots := range MaglevClasses {
		// Two words ahead of the table, and the table is filled up to whole words.
		value := 16 + (slots*2+7)/8*8
		ls[MaglevMap(class)] = Layout{1, ebpf.Array, 4, uint32(value), 0, Configured}
	}
	return ls
}()

// Fits reports whether a map has the present layout of its name: anybody may pin anything under it.
func Fits(base string, version int, m *ebpf.Map) bool {
	l, ok := Layouts[base]
	return ok && version == l.Version && m.Type() == l.Type && m.KeySize() == l.Key && m.ValueSize() == l.Value
}

// MapName is the name of a pinned map: "frontends.v1.65536".
func MapName(base string, version, entries int) string {
	return base + ".v" + strconv.Itoa(version) + "." + strconv.Itoa(entries)
}

// ParseMapName takes the name of a pinned map apart.
func ParseMapName(name string) (base string, version, entries int, ok bool) {
	part := strings.Split(name, ".")
	if len(part) != 3 {
		return "", 0, 0, false
	}
	version, err1 := strconv.Atoi(strings.TrimPrefix(part[1], "v"))
	entries, err2 := strconv.Atoi(part[2])
	ok = err1 == nil && err2 == nil && name == MapName(part[0], version, entries)
	return part[0], version, entries, ok
}

// object is one compiled file.
type object struct {
	data    []byte
	hash    func() string
	uses    func() (map[string][]string, error)
	collect func() (*ebpf.CollectionSpec, error)
}

var compiled = map[string]object{
	"socket":     newObject(_SocketBytes),
	"socket_all": newObject(_Socket_allBytes),
	"packet":     newObject(_PacketBytes),
	"forward":    newObject(_ForwardBytes),
	"sweep":      newObject(_SweepBytes),
	"xdp":        newObject(_XdpBytes),
}

func newObject(data []byte) object {
	return object{
		data: data,
		hash: sync.OnceValue(func() string { return fmt.Sprintf("%x", sha256.Sum256(data)) }),
		uses: sync.OnceValues(func() (map[string][]string, error) { return outline(data) }),
		collect: sync.OnceValues(func() (*ebpf.CollectionSpec, error) {
			return ebpf.LoadCollectionSpecFromReader(bytes.NewReader(data))
		}),
	}
}

// Spec is an object ready to be loaded; the caller may change it.
func Spec(name string) (*ebpf.CollectionSpec, error) {
	o, ok := compiled[name]
	if !ok {
		return nil, fmt.Errorf("there is no eBPF object %q", name)
	}
	spec, err := o.collect()
	if err != nil {
		return nil, fmt.Errorf("read eBPF object %s: %w", name, err)
	}
	return spec.Copy(), nil
}

// Uses lists the maps that a program of an object uses, by name. It panics where there is no such program: which there are
// is known when plumb is built.
//
// It reads the outline of the object alone: types and line numbers take ten times as long.
func Uses(name, program string) []string {
	uses, err := compiled[name].uses()
	if err != nil {
		panic(fmt.Errorf("read eBPF object %s: %w", name, err))
	}
	used, ok := uses[program]
	if !ok {
		panic(fmt.Sprintf("eBPF object %s has no program %q", name, program))
	}
	return slices.Clone(used)
}

// Programs lists the programs of an object.
func Programs(name string) []string {
	uses, err := compiled[name].uses()
	if err != nil {
		panic(fmt.Errorf("read eBPF object %s: %w", name, err))
	}
	return slices.Sorted(maps.Keys(uses))
}

// Hash is a name for all that a program is made of: its object, its settings and its maps.
func Hash(name, program string, settings map[string]uint32, pinned []string) string {
	h := sha256.New()
	fmt.Fprintln(h, name, compiled[name].hash(), program)
	for _, k := range slices.Sorted(maps.Keys(settings)) {
		fmt.Fprintln(h, k, settings[k])
	}
	for _, m := range slices.Sorted(slices.Values(pinned)) {
		fmt.Fprintln(h, m)
	}
	return fmt.Sprintf("%012x", binary.BigEndian.Uint64(h.Sum(nil))>>16)
}
