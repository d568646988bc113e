package resource

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// CPUs is a set of processors, by number, in order.
type CPUs []int

// maxCPU is far above what kernels are built for. It keeps a typing mistake from filling memory.
const maxCPU = 1 << 16

// ParseCPUs reads a list such as "0-3,6". The empty list is a set too.
func ParseCPUs(list string) (CPUs, error) {
	var set CPUs
	list = strings.TrimSpace(list)
	if list == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(list, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if !isRange {
			high = low
		}
		a, err := strconv.Atoi(low)
		b, err2 := strconv.Atoi(high)
		if err != nil || err2 != nil || a < 0 || b < a || b > maxCPU {
			return nil, fmt.Errorf("%q isn't a list of processors such as 0-3,6", list)
		}
		for i := a; i <= b; i++ {
			set = append(set, i)
		}
	}
	slices.Sort(set)
	return slices.Compact(set), nil
}

// ParseCPUMask reads the kernel's other form, hexadecimal words from the highest to the lowest: "00000001,0000000f".
func ParseCPUMask(mask string) (CPUs, error) {
	var set CPUs
	words := strings.Split(strings.TrimSpace(mask), ",")
	for i, w := range words {
		bits, err := strconv.ParseUint(w, 16, 32)
		if err != nil {
			return nil, fmt.Errorf("%q isn't a mask of processors such as 00000001,0000000f", mask)
		}
		for b := range 32 {
			if bits&(1<<b) != 0 {
				set = append(set, (len(words)-1-i)*32+b)
			}
		}
	}
	slices.Sort(set)
	return set, nil
}

// String is the list, as short as it can be: "0-3,6".
func (c CPUs) String() string {
	var b strings.Builder
	for i := 0; i < len(c); {
		j := i
		for j+1 < len(c) && c[j+1] == c[j]+1 {
			j++
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(c[i]))
		if j > i {
			b.WriteString("-" + strconv.Itoa(c[j]))
		}
		i = j + 1
	}
	return b.String()
}

// Mask is the set in the form that ParseCPUMask reads.
func (c CPUs) Mask() string {
	words := []uint32{0}
	for _, cpu := range c {
		for len(words) <= cpu/32 {
			words = append(words, 0)
		}
		words[cpu/32] |= 1 << (cpu % 32)
	}
	slices.Reverse(words)
	texts := make([]string, len(words))
	for i, w := range words {
		texts[i] = fmt.Sprintf("%08x", w)
	}
	return strings.Join(texts, ",")
}

// And are the processors that are in both sets.
func (c CPUs) And(o CPUs) CPUs {
	var both CPUs
	for _, cpu := range c {
		if slices.Contains(o, cpu) {
			both = append(both, cpu)
		}
	}
	return both
}
