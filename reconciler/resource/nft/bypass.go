package nft

import (
	"net/netip"
	"slices"
	"strings"
)

// Range is a range of addresses, both ends of it included.
type Range struct{ From, To netip.Addr }

// String is a prefix where the range is one, else "10.0.0.1-10.0.0.9".
func (r Range) String() string {
	for bits := range r.From.BitLen() + 1 {
		if p, _ := r.From.Prefix(bits); p.Addr() == r.From && last(p) == r.To {
			if bits == r.From.BitLen() {
				return r.From.String()
			}
			return p.String()
		}
	}
	return r.From.String() + "-" + r.To.String()
}

func (r Range) contains(a netip.Addr) bool { return r.From.Compare(a) <= 0 && a.Compare(r.To) <= 0 }

// Ranges are prefixes as the kernel keeps them: in order, those that overlap or touch as one.
func Ranges(prefixes []netip.Prefix) []Range {
	var all []Range
	for _, p := range prefixes {
		all = append(all, Range{p.Masked().Addr(), last(p)})
	}
	slices.SortFunc(all, func(a, b Range) int { return a.From.Compare(b.From) })
	var merged []Range
	for _, r := range all {
		n := len(merged) - 1
		switch {
		case n < 0 || merged[n].From.BitLen() != r.From.BitLen() || merged[n].To.Next().Less(r.From):
			merged = append(merged, r)
		case merged[n].To.Less(r.To):
			merged[n].To = r.To
		}
	}
	return merged
}

// last is the last address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// The sets of a table that keeps connections from being tracked; those of one family end in its number.
const (
	podsSet = "pods" // addresses of pods
	endsSet = "ends" // and those that they aren't tracked with
)

// Bypasses reports whether the table keeps connections from being tracked. Then it carries no services: the answer to a
// packet that was translated has to be tracked to be translated back. It may masquerade: no pod or node is excluded from the
// one and not from the other.
func (t Table) Bypasses() bool { return len(t.Pods) > 0 }

// sameBypass reports whether two tables keep the same connections from being tracked.
func sameBypass(a, b Table) bool { return slices.Equal(a.Pods, b.Pods) && slices.Equal(a.Ends, b.Ends) }

// Between says whose connections the table keeps from being tracked, on one line; "" for none.
func (t Table) Between() string {
	if !t.Bypasses() {
		return ""
	}
	return "pods " + joinRanges(t.Pods) + " with " + joinRanges(t.Ends)
}

func joinRanges(ranges []Range) string {
	var all []string
	for _, r := range ranges {
		all = append(all, r.String())
	}
	return strings.Join(all, ", ")
}

// past ends the key of an element that is the first address behind a range.
const past = "\x01"

// encodeBypass returns the elements of the sets that are for it.
func encodeBypass(t Table) sets {
	s := sets{}
	s.addRanges(podsSet, t.Pods)
	s.addRanges(endsSet, t.Ends)
	return s
}

// decodeBypass is its opposite.
func decodeBypass(s sets, t *Table) (err error) {
	if t.Pods, err = s.ranges(podsSet); err != nil {
		return err
	}
	if t.Ends, err = s.ranges(endsSet); err != nil {
		return err
	}
	if !t.Bypasses() {
		return errForeign
	}
	return nil
}
