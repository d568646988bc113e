package nft

import (
	"net/netip"
	"slices"
	"strings"
)

// The sets of a table that masquerades; those of one family end in its number.
const (
	masqueradedSet = "masqueraded" // addresses of pods
	excludedSet    = "excluded"    // destinations that they reach by these addresses
	uplinksSet     = "uplinks"
)

// Masquerade is who leaves by the node's address: pods, by uplinks, but for some destinations. The zero value is nobody.
type Masquerade struct {
	Pods, Excluded []Range
	Uplinks        []string // ordered
}

// Masquerades reports whether the table gives pods the node's address.
func (t Table) Masquerades() bool { return len(t.Masquerade.Pods) > 0 }

func (m Masquerade) equal(o Masquerade) bool {
	return slices.Equal(m.Pods, o.Pods) && slices.Equal(m.Excluded, o.Excluded) && slices.Equal(m.Uplinks, o.Uplinks)
}

// String says it on one line: "10.0.0.0/24 by eth0, but to 10.0.0.0/8"; "" for nobody.
func (m Masquerade) String() string {
	if len(m.Pods) == 0 {
		return ""
	}
	s := joinRanges(m.Pods) + " by " + strings.Join(m.Uplinks, ", ")
	if len(m.Excluded) > 0 {
		s += ", but to " + joinRanges(m.Excluded)
	}
	return s
}

// encodeMasquerade returns the elements of the sets that are for it.
func encodeMasquerade(m Masquerade) sets {
	s := sets{uplinksSet: {}}
	s.addRanges(masqueradedSet, m.Pods)
	s.addRanges(excludedSet, m.Excluded)
	for _, dev := range m.Uplinks {
		name := make([]byte, ifNameSize)
		copy(name, dev)
		s[uplinksSet][string(name)] = element{}
	}
	return s
}

// decodeMasquerade is its opposite.
func decodeMasquerade(s sets) (m Masquerade, err error) {
	if m.Pods, err = s.ranges(masqueradedSet); err != nil {
		return m, err
	}
	if m.Excluded, err = s.ranges(excludedSet); err != nil {
		return m, err
	}
	for key := range s[uplinksSet] {
		name, _, _ := strings.Cut(key, "\x00")
		m.Uplinks = append(m.Uplinks, name)
	}
	slices.Sort(m.Uplinks)
	if len(m.Pods) == 0 {
		return m, errForeign
	}
	return m, nil
}

// addRanges adds the elements of ranges to the sets of a name. A range is two elements: its first address, and the first one
// behind it.
func (s sets) addRanges(set string, ranges []Range) {
	for _, v := range []string{"4", "6"} {
		s[set+v] = map[string]element{}
	}
	for _, r := range ranges {
		in := s[set+string(family(r.From))]
		in[string(r.From.AsSlice())] = element{}
		if next := r.To.Next(); next.IsValid() { // else the range goes to the end
			in[string(next.AsSlice())+past] = element{}
		}
	}
}

// ranges reads them back.
func (s sets) ranges(set string) (ranges []Range, err error) {
	for _, v := range []string{"4", "6"} {
		size := 4
		if v == "6" {
			size = 16
		}
		var from, to []netip.Addr
		for key := range s[set+v] {
			text, end := strings.CutSuffix(key, past)
			if !end || len(text) != size { // an address may end like that too
				text, end = key, false
			}
			a, ok := netip.AddrFromSlice([]byte(text))
			switch {
			case !ok || len(text) != size:
				return nil, errForeign
			case end:
				to = append(to, a.Prev())
			default:
				from = append(from, a)
			}
		}
		slices.SortFunc(from, netip.Addr.Compare)
		slices.SortFunc(to, netip.Addr.Compare)
		if len(from) == len(to)+1 {
			to = append(to, last(netip.PrefixFrom(from[0], 0)))
		}
		if len(from) != len(to) {
			return nil, errForeign
		}
		for i := range from {
			ranges = append(ranges, Range{from[i], to[i]})
		}
	}
	return ranges, nil
}
