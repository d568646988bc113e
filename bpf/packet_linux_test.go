package bpf

import (
	"errors"
	"testing"

	"github.com/cilium/ebpf"
)

func TestPacketLoads(t *testing.T) {
	for _, load := range []func() (*ebpf.CollectionSpec, error){loadPacket, loadForward} {
		spec, err := load()
		for _, name := range []string{"redirect", "source_check"} {
			if err := spec.Variables[name].Set(uint32(1)); err != nil {
				t.Fatal(err)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		for name, p := range spec.Programs {
			s := spec.Copy()
			s.Programs = map[string]*ebpf.ProgramSpec{name: p}
			c, err := ebpf.NewCollection(s)
			var v *ebpf.VerifierError
			if errors.As(err, &v) {
				t.Fatalf("%s: %+v", name, v)
			}
			if err != nil {
				t.Fatal(name, err)
			}
			i, _ := c.Programs[name].Info()
			n, _ := i.VerifiedInstructions()
			t.Log(name, len(p.Instructions), n)
			c.Close()
		}
	}
}
