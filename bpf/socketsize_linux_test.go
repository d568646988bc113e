package bpf

import (
	"testing"

	"plumb.internal/plumb/internal/kindtest"
)

// The programs fit the oldest verifier that they are meant for, which takes 4096 instructions and looks at 131072, with
// much room: it finds fewer paths to be alike than this kernel's.
func TestSocketSize(t *testing.T) {
	const most, mostVerified = 4096, 131072 / 16
	kindtest.NeedRoot(t)
	for _, name := range []string{"socket", "socket_all"} {
		spec, err := objects[name]()
		if err != nil {
			t.Fatal(err)
		}
		if len(spec.Variables) != 0 || spec.Maps[".rodata"] != nil || spec.Maps[".data"] != nil || spec.Maps[".bss"] != nil {
			t.Errorf("%s has global data", name)
		}
		for base, m := range spec.Maps {
			m.MaxEntries = 16
			if !usedBySockets[base] {
				delete(spec.Maps, base)
			}
		}
		if err := fit(spec); err != nil {
			t.Fatal(err)
		}
		loaded := collection(t, spec)
		defer loaded.Close()
		for base, p := range spec.Programs {
			size := uint64(0)
			for _, ins := range p.Instructions {
				size += ins.Size() / 8
				if ins.IsFunctionReference() {
					t.Errorf("%s of %s isn't in one piece", base, name)
				}
			}
			info, err := loaded.Programs[base].Info()
			if err != nil {
				t.Fatal(err)
			}
			verified, told := info.VerifiedInstructions()
			t.Logf("%s of %s: %d instructions, %d verified", base, name, size, verified)
			if size == 0 || size > most || told && verified > mostVerified {
				t.Errorf("%s of %s: %d instructions, %d verified", base, name, size, verified)
			}
		}
	}
}
