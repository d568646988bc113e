package bpf

import (
	"testing"

	"github.com/cilium/ebpf/asm"
)

// TestStack adds up what a program and the functions that it calls have on the stack, as kernels do that are older than
// this one may be: they allow 512 bytes, and round up each function to 32.
func TestStack(t *testing.T) {
	for object := range compiled {
		spec, err := Spec(object)
		if err != nil {
			t.Fatal(err)
		}
		for name, p := range spec.Programs {
			if n, path := deepest(p.Instructions, name); n > 512 {
				t.Errorf("object %s: %d bytes of stack by %v", object, n, path)
			}
		}
	}
}

// deepest is the way through the calls of a program that takes the most stack.
func deepest(ins asm.Instructions, program string) (int, []string) {
	own, calls := map[string]int{}, map[string][]string{}
	at, frame := program, map[asm.Register]bool{} // registers that point to the stack's end
	for _, in := range ins {
		if s := in.Symbol(); s != "" {
			at = s
		}
		var offset int64
		switch class := in.OpCode.Class(); {
		case in.IsFunctionCall():
			calls[at] = append(calls[at], in.Reference())
		case class.IsLoad() && in.Src == asm.RFP, class.IsStore() && in.Dst == asm.RFP:
			offset = int64(in.Offset)
		case class.IsALU() && in.OpCode.ALUOp() == asm.Mov:
			frame[in.Dst] = in.OpCode.Source() == asm.RegSource && in.Src == asm.RFP
		case class.IsALU() && in.OpCode.ALUOp() == asm.Add && frame[in.Dst]:
			offset, frame[in.Dst] = in.Constant, false
		}
		own[at] = max(own[at], -int(offset))
	}
	var walk func(f string) (int, []string)
	walk = func(f string) (int, []string) {
		most, way := 0, []string(nil)
		for _, c := range calls[f] {
			if n, w := walk(c); n > most {
				most, way = n, w
			}
		}
		return most + (own[f]+31)/32*32, append([]string{f}, way...)
	}
	return walk(program)
}
