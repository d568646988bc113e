package bpf

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
)

// outline finds out which maps each program of an object uses.
func outline(data []byte) (map[string][]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	symbols, err := f.Symbols()
	if err != nil {
		return nil, fmt.Errorf("symbols: %w", err)
	}
	type reference struct {
		at  uint64
		sym elf.Symbol
	}
	references := map[elf.SectionIndex][]reference{}
	for _, s := range f.Sections {
		if s.Type != elf.SHT_REL {
			continue
		}
		rel, err := s.Data()
		if err != nil {
			return nil, fmt.Errorf("section %s: %w", s.Name, err)
		}
		of := elf.SectionIndex(s.Info)
		for ; len(rel) >= 16; rel = rel[16:] {
			// The first symbol of a file is none, and the library leaves it out.
			i := int(binary.LittleEndian.Uint64(rel[8:])>>32) - 1
			if i >= 0 && i < len(symbols) {
				references[of] = append(references[of], reference{binary.LittleEndian.Uint64(rel), symbols[i]})
			}
		}
	}
	section := func(i elf.SectionIndex) string {
		if int(i) < len(f.Sections) {
			return f.Sections[i].Name
		}
		return ""
	}
	// within collects the maps that a part of a section refers to, and whether it calls functions of .text.
	within := func(i elf.SectionIndex, from, to uint64, used map[string]bool) (calls bool) {
		for _, r := range references[i] {
			if r.at < from || r.at >= to {
				continue
			}
			switch section(r.sym.Section) {
			case ".maps":
				used[r.sym.Name] = true
			case ".text":
				calls = true
			}
		}
		return calls
	}
	uses := map[string][]string{}
	for _, p := range symbols {
		in := section(p.Section)
		if elf.ST_TYPE(p.Info) != elf.STT_FUNC || elf.ST_BIND(p.Info) != elf.STB_GLOBAL || in == ".text" {
			continue
		}
		used := map[string]bool{}
		if within(p.Section, p.Value, p.Value+p.Size, used) {
			for i, s := range f.Sections {
				if s.Name == ".text" {
					within(elf.SectionIndex(i), 0, s.Size, used)
				}
			}
		}
		list := make([]string, 0, len(used))
		for m := range used {
			list = append(list, m)
		}
		slices.Sort(list)
		uses[p.Name] = list
	}
	return uses, nil
}
