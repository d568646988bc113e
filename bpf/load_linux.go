package bpf

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/memlock"
)

// NewMap makes a map of a size. Nobody else sees it until it is pinned.
func NewMap(base string, entries int) (*ebpf.Map, error) {
	spec, err := mapSpec(base, entries)
	if err != nil {
		return nil, err
	}
	var m *ebpf.Map
	err = lifted(func() (err error) { m, err = ebpf.NewMap(spec); return err })
	if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.E2BIG) {
		return nil, fmt.Errorf("make eBPF map %s of %d entries: the kernel has no memory for it: set a smaller tuning.maps: %w",
			base, entries, err)
	}
	if err != nil {
		return nil, fmt.Errorf("make eBPF map %s of %d entries: %w", base, entries, err)
	}
	return m, nil
}

func mapSpec(base string, entries int) (*ebpf.MapSpec, error) {
	spec, err := Spec("sweep") // every object has all maps, and this one is the smallest
	if err != nil {
		return nil, err
	}
	m := spec.Maps[base]
	if m == nil {
		return nil, fmt.Errorf("there is no eBPF map %q", base)
	}
	m.MaxEntries = uint32(entries)
	return m, nil
}

// Load loads one program of an object with its constants and the maps that it uses, by base.
func Load(name, program string, settings map[string]uint32, pinned map[string]*ebpf.Map) (*ebpf.Program, error) {
	spec, err := Spec(name)
	if err != nil {
		return nil, err
	}
	p := spec.Programs[program]
	if p == nil {
		return nil, fmt.Errorf("eBPF object %s has no program %q", name, program)
	}
	one := &ebpf.CollectionSpec{Maps: map[string]*ebpf.MapSpec{}, Programs: map[string]*ebpf.ProgramSpec{program: p},
		Types: spec.Types, ByteOrder: spec.ByteOrder, Variables: map[string]*ebpf.VariableSpec{}}
	replace := map[string]*ebpf.Map{}
	for base := range p.Instructions.ReferenceOffsets() {
		m := spec.Maps[base]
		if m == nil {
			continue // a function
		}
		one.Maps[base] = m
		if have := pinned[base]; have != nil {
			m.MaxEntries = have.MaxEntries()
			replace[base] = have
		} else if !strings.HasPrefix(base, ".") {
			return nil, fmt.Errorf("load program %s of %s: map %s is missing", program, name, base)
		}
	}
	for k, v := range settings {
		c := spec.Variables[k]
		if c == nil {
			return nil, fmt.Errorf("load program %s of %s: it has no setting %q", program, name, k)
		}
		if err := c.Set(v); err != nil {
			return nil, fmt.Errorf("load program %s of %s: setting %s: %w", program, name, k, err)
		}
	}
	if one.Maps[".rodata"] != nil {
		one.Variables = spec.Variables
	}
	if err := fit(one); err != nil {
		return nil, fmt.Errorf("load program %s of %s: %w", program, name, err)
	}
	var c *ebpf.Collection
	err = lifted(func() (err error) {
		c, err = ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{MapReplacements: replace})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load program %s of %s: %w", program, name, readable(err))
	}
	defer c.Close()
	return c.DetachProgram(program), nil
}

// lifted runs fn without the limit of locked memory. That the limit stays matters only where the kernel then refuses.
func lifted(fn func() error) error {
	limit := memlock.Lift()
	err := fn()
	if errors.Is(err, unix.EPERM) && limit != nil {
		return fmt.Errorf("%w (%w)", err, limit)
	}
	return err
}

const verifierLines = 12

// readable makes of the verifier's log what a person can read: the end, which says what is wrong.
func readable(err error) error {
	var v *ebpf.VerifierError
	if !errors.As(err, &v) {
		return err
	}
	log := v.Log
	if len(log) > verifierLines {
		log = log[len(log)-verifierLines:]
	}
	return fmt.Errorf("the kernel's verifier refuses it: %w:\n\t%s", v.Cause, strings.Join(log, "\n\t"))
}
