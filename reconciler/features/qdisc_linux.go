package features

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

var qdiscProbes = []probe{
	{QdiscFQ, "3.12", "adding qdisc fq", func(s *sandbox) error {
		return s.qdisc(func(a netlink.QdiscAttrs) netlink.Qdisc { return netlink.NewFq(a) })
	}},
	{QdiscFQCodel, "3.5", "adding qdisc fq_codel", func(s *sandbox) error {
		return s.qdisc(func(a netlink.QdiscAttrs) netlink.Qdisc { return netlink.NewFqCodel(a) })
	}},
	{QdiscHTB, "2.6", "adding qdisc htb", func(s *sandbox) error {
		return s.qdisc(func(a netlink.QdiscAttrs) netlink.Qdisc { return netlink.NewHtb(a) })
	}},
	{QdiscTBF, "2.6", "adding qdisc tbf", func(s *sandbox) error {
		return s.qdisc(func(a netlink.QdiscAttrs) netlink.Qdisc {
			return &netlink.Tbf{QdiscAttrs: a, Rate: 1 << 20, Limit: 1 << 16, Buffer: 1 << 14}
		})
	}},
	{QdiscClsact, "4.5", "adding qdisc clsact", func(s *sandbox) error {
		l, err := s.parent()
		if err != nil {
			return err
		}
		return s.clsact(l)
	}},
}

// qdisc puts a qdisc at the root of a link and looks whether it is there.
func (s *sandbox) qdisc(make func(netlink.QdiscAttrs) netlink.Qdisc) error {
	l, err := s.parent()
	if err != nil {
		return err
	}
	q := make(netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT})
	if err := s.h.QdiscAdd(q); err != nil {
		return err
	}
	found, err := s.h.QdiscList(l)
	if err != nil {
		return untried("list qdiscs", err)
	}
	for _, f := range found {
		if f.Type() == q.Type() {
			return nil
		}
	}
	return fmt.Errorf("qdisc %s isn't listed: %w", q.Type(), errAbsent)
}

func (s *sandbox) clsact(l netlink.Link) error {
	return s.h.QdiscAdd(&netlink.GenericQdisc{
		QdiscType: "clsact",
		QdiscAttrs: netlink.QdiscAttrs{
			LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
		},
	})
}
