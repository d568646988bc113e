package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
)

// fitRetval makes up for a helper that came with 5.18, bpf_set_retval: where the kernel hasn't got it, the calls in the
// socket programs become a failed one, and the programs do what they can instead. So one object serves all kernels,
// without a setting. Other programs are left as they are.
func fitRetval(spec *ebpf.CollectionSpec) error {
	err := features.HaveProgramHelper(ebpf.CGroupSockAddr, asm.FnSetRetval)
	if errors.Is(err, ebpf.ErrNotSupported) {
		dropRetval(spec)
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask the kernel for bpf_set_retval: %w", err)
	}
	return nil
}

func dropRetval(spec *ebpf.CollectionSpec) {
	for _, p := range spec.Programs {
		for i, ins := range p.Instructions {
			if ins.IsBuiltinCall() && ins.Constant == int64(asm.FnSetRetval) {
				p.Instructions[i] = asm.Mov.Imm(asm.R0, -1).WithMetadata(ins.Metadata)
			}
		}
	}
}
