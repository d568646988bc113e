package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

const hasFrags = 1 << 5 // BPF_F_XDP_HAS_FRAGS of linux/bpf.h

// fit makes up for helpers that are younger than the rest, all since 5.18: where the kernel hasn't got them, the calls become
// failed ones, and the programs do what they can instead. So one object serves all kernels, without a setting.
//
//	bpf_set_retval        in socket programs
//	bpf_xdp_get_buff_len  in XDP programs, which take packets in several parts where it is there
func fit(spec *ebpf.CollectionSpec) error {
	for _, p := range spec.Programs {
		switch p.Type {
		case ebpf.CGroupSockAddr:
			if _, err := drop(p, asm.FnSetRetval); err != nil {
				return err
			}
		case ebpf.XDP:
			lacks, err := drop(p, asm.FnXdpGetBuffLen)
			if err != nil {
				return err
			}
			if lacks {
				p.Flags &^= hasFrags
			}
		}
	}
	return nil
}

// drop makes the calls of a helper failed ones where the kernel lacks it.
func drop(p *ebpf.ProgramSpec, fn asm.BuiltinFunc) (lacks bool, err error) {
	err = features.HaveProgramHelper(p.Type, fn)
	if err == nil {
		return false, nil
	}
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return false, fmt.Errorf("ask the kernel for %s: %w", fn, err)
	}
	dropCalls(p, fn)
	return true, nil
}

func dropCalls(p *ebpf.ProgramSpec, fn asm.BuiltinFunc) {
	for i, ins := range p.Instructions {
		if ins.IsBuiltinCall() && ins.Constant == int64(fn) {
			p.Instructions[i] = asm.Mov.Imm(asm.R0, -1).WithMetadata(ins.Metadata)
		}
	}
}
