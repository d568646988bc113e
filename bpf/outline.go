package bpf

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// outline finds out which maps each program of an object uses, itself and by the functions that it calls.
func outline(data []byte) (map[string][]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	o := &outlined{sections: f.Sections, refs: map[place]elf.Symbol{}, code: map[elf.SectionIndex][]byte{}}
	if o.symbols, err = f.Symbols(); err != nil {
		return nil, fmt.Errorf("symbols: %w", err)
	}
	for i, s := range f.Sections {
		switch {
		case s.Type == elf.SHT_REL && f.Sections[s.Info].Flags&elf.SHF_EXECINSTR != 0:
			err = o.relocations(elf.SectionIndex(s.Info), s)
		case s.Flags&elf.SHF_EXECINSTR != 0:
			o.code[elf.SectionIndex(i)], err = s.Data()
		}
		if err != nil {
			return nil, fmt.Errorf("section %s: %w", s.Name, err)
		}
	}
	uses := map[string][]string{}
	for _, p := range o.symbols {
		if elf.ST_TYPE(p.Info) == elf.STT_FUNC && elf.ST_BIND(p.Info) == elf.STB_GLOBAL && o.section(p.Section) != ".text" {
			used := map[string]bool{}
			o.follow(place{p.Section, p.Value}, used, map[place]bool{})
			uses[p.Name] = slices.Sorted(maps.Keys(used))
		}
	}
	return uses, nil
}

type outlined struct {
	sections []*elf.Section
	symbols  []elf.Symbol
	refs     map[place]elf.Symbol // what instructions refer to
	code     map[elf.SectionIndex][]byte
}

// place is an offset in a section.
type place struct {
	section elf.SectionIndex
	at      uint64
}

func (o *outlined) section(i elf.SectionIndex) string {
	if int(i) < len(o.sections) {
		return o.sections[i].Name
	}
	return ""
}

func (o *outlined) relocations(of elf.SectionIndex, s *elf.Section) error {
	rel, err := s.Data()
	for ; len(rel) >= 16; rel = rel[16:] {
		// The first symbol of a file is none, and the library leaves it out.
		i := int(binary.LittleEndian.Uint64(rel[8:])>>32) - 1
		if i >= 0 && i < len(o.symbols) {
			o.refs[place{of, binary.LittleEndian.Uint64(rel)}] = o.symbols[i]
		}
	}
	return err
}

// The parts of an instruction that matter: calls of functions of the same object.
const (
	instruction = 8    // bytes
	call        = 0x85 // BPF_JMP|BPF_CALL
	pseudoCall  = 1    // BPF_PSEUDO_CALL, in the upper half of the second byte
	loadAddress = 0x18 // BPF_LD|BPF_DW|BPF_IMM
)

// follow goes through the function that begins at p.
func (o *outlined) follow(p place, used map[string]bool, seen map[place]bool) {
	if seen[p] {
		return
	}
	seen[p] = true
	end := o.end(p)
	for code := o.code[p.section]; p.at < end && p.at+instruction <= uint64(len(code)); p.at += instruction {
		ref, ok := o.refs[p]
		if ok && o.section(ref.Section) == ".maps" {
			used[ref.Name] = true
		}
		imm := int64(int32(binary.LittleEndian.Uint32(code[p.at+4:])))
		to := (imm + 1) * instruction
		switch called := code[p.at] == call && code[p.at+1]>>4 == pseudoCall; {
		case !called && code[p.at] == loadAddress && ok && o.code[ref.Section] != nil:
			// The address of a function, for the kernel to call.
			o.follow(place{ref.Section, ref.Value + uint64(imm)}, used, seen)
		case !called:
		case !ok:
			o.follow(place{p.section, uint64(int64(p.at) + to)}, used, seen)
		case elf.ST_TYPE(ref.Info) == elf.STT_SECTION:
			o.follow(place{ref.Section, uint64(to)}, used, seen)
		default:
			o.follow(place{ref.Section, ref.Value}, used, seen)
		}
	}
}

// end is where the function that begins at p ends.
func (o *outlined) end(p place) uint64 {
	for _, s := range o.symbols {
		if elf.ST_TYPE(s.Info) == elf.STT_FUNC && s.Section == p.section && s.Value == p.at {
			return s.Value + s.Size
		}
	}
	// A function without a name of its own: more than it may be said to use.
	return uint64(len(o.code[p.section]))
}
