package bpf

import (
	"testing"

	"github.com/cilium/ebpf/asm"
)

// One object serves kernels with and without the helpers that came later.
func TestDropCalls(t *testing.T) {
	for name, fn := range map[string]asm.BuiltinFunc{
		"socket": asm.FnSetRetval, "socket_all": asm.FnSetRetval, "xdp": asm.FnXdpGetBuffLen,
	} {
		spec, err := Spec(name)
		if err != nil {
			t.Fatal(err)
		}
		calls := func() (n int) {
			for _, p := range spec.Programs {
				for _, ins := range p.Instructions {
					if ins.IsBuiltinCall() && ins.Constant == int64(fn) {
						n++
					}
				}
			}
			return n
		}
		if calls() == 0 {
			t.Errorf("%s never calls %s", name, fn)
		}
		for _, p := range spec.Programs {
			dropCalls(p, fn)
		}
		if n := calls(); n != 0 {
			t.Errorf("%s: %d calls of %s left", name, n, fn)
		}
	}
}
