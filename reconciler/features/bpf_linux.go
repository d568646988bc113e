package features

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	bpffeatures "github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

var bpfProbes = []probe{
	{BTF, "5.4", "reading the kernel's BTF", func(*sandbox) error {
		f, err := os.Open("/sys/kernel/btf/vmlinux")
		if err != nil {
			return err
		}
		defer f.Close()
		magic := make([]byte, 2)
		if _, err := io.ReadFull(f, magic); err != nil {
			return untried("read it", err)
		}
		if binary.NativeEndian.Uint16(magic) != 0xeb9f {
			return fmt.Errorf("it begins with %x: %w", magic, errAbsent)
		}
		return nil
	}},
	{GlobalData, "5.2", "loading a program that refers to a map's value", tryGlobalData},
	{MapBatch, "5.6", "updating two map entries in one call", func(*sandbox) error {
		return withMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 2}, func(m *ebpf.Map) error {
			_, err := m.BatchUpdate([]uint32{1, 2}, []uint32{1, 2}, nil)
			return err
		})
	}},
	{MapMmap, "5.5", "mapping an array into memory", func(*sandbox) error {
		page := os.Getpagesize()
		spec := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: uint32(page), MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE}
		return withMap(spec, func(m *ebpf.Map) error {
			mem, err := unix.Mmap(m.FD(), 0, page, unix.PROT_READ, unix.MAP_SHARED)
			if err != nil {
				return err
			}
			return unix.Munmap(mem)
		})
	}},
	{MapLRUHash, "4.10", "creating an LRU hash", func(*sandbox) error {
		return withMap(&ebpf.MapSpec{Type: ebpf.LRUHash, KeySize: 4, ValueSize: 4, MaxEntries: 2}, nil)
	}},
	{MapLPMTrie, "4.11", "creating a trie of prefixes", func(*sandbox) error {
		return withMap(&ebpf.MapSpec{Type: ebpf.LPMTrie, KeySize: 8, ValueSize: 4, MaxEntries: 2, Flags: unix.BPF_F_NO_PREALLOC}, nil)
	}},
	{MapRingBuf, "5.8", "creating a ring buffer", func(*sandbox) error {
		return withMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: uint32(os.Getpagesize())}, nil)
	}},
	helper(RedirectPeer, "5.10", "tc", ebpf.SchedCLS, "bpf_redirect_peer", asm.FnRedirectPeer),
	helper(RedirectNeigh, "5.10", "tc", ebpf.SchedCLS, "bpf_redirect_neigh", asm.FnRedirectNeigh),
	helper(FIBLookup, "4.18", "tc", ebpf.SchedCLS, "bpf_fib_lookup", asm.FnFibLookup),
	helper(SkbSetTstamp, "5.18", "tc", ebpf.SchedCLS, "bpf_skb_set_tstamp", asm.FnSkbSetTstamp),
	helper(NetNSCookie, "5.7", "socket", ebpf.CGroupSockAddr, "bpf_get_netns_cookie", asm.FnGetNetnsCookie),
	helper(NetNSCookieSkb, "6.15", "tc", ebpf.SchedCLS, "bpf_get_netns_cookie", asm.FnGetNetnsCookie),
	helper(Timers, "5.15", "tc", ebpf.SchedCLS, "bpf_timer_init", asm.FnTimerInit),
	helper(SetRetval, "5.18", "socket", ebpf.CGroupSockAddr, "bpf_set_retval", asm.FnSetRetval),
}

// helper asks the verifier whether programs of a type may call a helper.
func helper(f Feature, since string, program string, t ebpf.ProgramType, name string, fn asm.BuiltinFunc) probe {
	return probe{f, since, fmt.Sprintf("loading a %s program that calls %s", program, name), func(*sandbox) error {
		return bpffeatures.HaveProgramHelper(t, fn)
	}}
}

func tryGlobalData(*sandbox) error {
	return withMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}, func(m *ebpf.Map) error {
		return withProgram(&ebpf.ProgramSpec{
			Type:         ebpf.SchedCLS,
			Instructions: append(asm.Instructions{asm.LoadMapValue(asm.R1, m.FD(), 0)}, pass(0)...),
		}, nil)
	})
}

// trialName is what `bpftool prog` shows while a probe runs.
const trialName = "plumb_probe"

// withMap creates a map, and hands it to use, if that isn't nil.
func withMap(spec *ebpf.MapSpec, use func(*ebpf.Map) error) error {
	spec.Name = trialName
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return err
	}
	defer m.Close()
	if use == nil {
		return nil
	}
	return use(m)
}

// withProgram loads a program, and hands it to use, if that isn't nil.
func withProgram(spec *ebpf.ProgramSpec, use func(*ebpf.Program) error) error {
	spec.Name, spec.License = trialName, "GPL"
	p, err := ebpf.NewProgramWithOptions(spec, ebpf.ProgramOptions{LogDisabled: true})
	if err != nil {
		return err
	}
	defer p.Close()
	if use == nil {
		return nil
	}
	return use(p)
}

// pass are the instructions of a program that does nothing but return verdict.
func pass(verdict int32) asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()}
}

// liftMemlock lets the probes create maps on kernels before 5.11, which count them as locked memory of the process. What
// it returns puts the limit back.
func liftMemlock() (restore func(), err error) {
	var old unix.Rlimit
	all := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &all, &old); err != nil {
		if errors.Is(err, unix.EPERM) {
			return func() {}, nil // without privilege the probes say so themselves
		}
		return nil, fmt.Errorf("lift limit of locked memory: %w", err)
	}
	return func() { _ = unix.Prlimit(0, unix.RLIMIT_MEMLOCK, &old, nil) }, nil
}
