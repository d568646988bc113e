package nft

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
)

// Observe implements reconciler.Ops. A table of our name without our mark is foreign, and so is another node's.
func (Ops) Observe(_ context.Context, h *host.Host, wanted []Table) (owned, foreign []Table, err error) {
	err = inRoot(h, func() error {
		owner, err := ownerOf(h.Node)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil && len(wanted) == 0 && missing(err):
			return nil // a kernel without nftables
		case err != nil:
			return err
		case owner != "":
			foreign = []Table{{Owner: owner}}
			return nil
		}
		t, err := observe()
		if gone := len(wanted) == 0 || !wanted[0].Serves(); err == nil && gone && len(t.Frontends) > 0 {
			t.busy, err = busy(t)
		}
		if gone := len(wanted) == 0 || !wanted[0].Masquerades(); err == nil && gone && t.Masquerades() && !t.busy {
			t.busy, err = t.Masquerade.busy()
		}
		owned = []Table{t}
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("observe table inet %s: %w", resource.NftTable, err)
	}
	return owned, foreign, nil
}

// observe reads our own table.
func observe() (t Table, err error) {
	c, err := nftables.New()
	if err != nil {
		return t, err
	}
	have, err := readChains(c)
	if err != nil {
		return t, err
	}
	var p parts
	_, p.bypass = have[bypassChain]
	_, p.masquerade = have[masqueradeChain]
	if _, p.services = have[services]; !p.bypass && !p.masquerade {
		p.services = true
	}
	there := sets{}
	for name := range p.sets() {
		elements, err := dump(name)
		if errors.Is(err, fs.ErrNotExist) {
			return Table{Damage: "set " + name + " is missing"}, nil
		}
		if err != nil {
			return t, err
		}
		there[name] = elements
	}
	if p.services {
		t, err = decode(there)
	}
	if p.bypass && err == nil {
		err = decodeBypass(there, &t)
	}
	if p.masquerade && err == nil {
		t.Masquerade, err = decodeMasquerade(there)
	}
	if err != nil {
		return Table{Damage: err.Error()}, nil
	}
	should, chains := t.content()
	for _, name := range slices.Sorted(maps.Keys(should)) {
		if !maps.Equal(should[name], there[name]) {
			t.Damage = "set " + name + " doesn't fit the others"
			return t, nil
		}
	}
	t.Damage = damaged(have, chains)
	return t, nil
}

// content is all that is in a table: its elements, and its chains.
func (t Table) content() (sets, map[string]ruleChain) {
	p := t.parts()
	elements, chains := sets{markedSet: {}}, map[string]ruleChain{}
	if p.services {
		all, picking := encode(t)
		maps.Copy(elements, all)
		maps.Copy(chains, newChains(picking))
	}
	if p.bypass {
		maps.Copy(elements, encodeBypass(t))
		maps.Copy(chains, bypassChains())
	}
	if p.masquerade {
		maps.Copy(elements, encodeMasquerade(t.Masquerade))
		maps.Copy(chains, masqueradeChains())
	}
	return elements, chains
}

// sets are those of the parts by name. The one that bears the mark is in every table.
func (p parts) sets() map[string]*nftables.Set {
	services := newSets()
	all := map[string]*nftables.Set{markedSet: services[markedSet]}
	if p.services {
		all = services
	}
	if p.bypass {
		maps.Copy(all, bypassSets())
	}
	if p.masquerade {
		maps.Copy(all, masqueradeSets())
	}
	return all
}

func readChains(c *nftables.Conn) (map[string]ruleChain, error) {
	chains, err := c.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	have := map[string]ruleChain{}
	for _, ch := range chains {
		if ch.Table.Name != table.Name {
			continue
		}
		rules, err := c.GetRules(table, ch)
		if err != nil {
			return nil, fmt.Errorf("list rules of chain %s: %w", ch.Name, err)
		}
		rc := ruleChain{Chain: ch}
		for _, r := range rules {
			rc.rules = append(rc.rules, *r)
		}
		have[ch.Name] = rc
	}
	return have, nil
}

// ownerOf returns "" for our own table, else whose it is. The error wraps fs.ErrNotExist where there is no table.
func ownerOf(node string) (string, error) {
	c, err := nftables.New()
	if err != nil {
		return "", err
	}
	tables, err := c.ListTablesOfFamily(table.Family)
	if err != nil {
		return "", err
	}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == table.Name }) {
		return "", fs.ErrNotExist
	}
	comment, err := setComment(markedSet)
	if errors.Is(err, fs.ErrNotExist) {
		return resource.Unmarked, nil
	}
	if by, ok := markedBy(comment); ok && by != node {
		return "plumb node " + by, err
	} else if ok {
		return "", err
	}
	return resource.Unmarked, err
}

// Create implements reconciler.Ops.
func (Ops) Create(_ context.Context, h *host.Host, t Table) error {
	return write(h, "create", t, func() error {
		if err := create(h, t, false); err != nil {
			return err
		}
		if err := staleFlows(Table{}, t).delete(h); err != nil {
			return err
		}
		return tracked(t).forget(h)
	})
}

// Update implements reconciler.Ops: elements that differ, in one transaction. Where UDP backends go there are two, so
// that a run which is cut off between them finds the backends still there and cleans up after all: one that gives the
// backends nothing new, then their flows, then one that takes them away.
func (Ops) Update(_ context.Context, h *host.Host, from, to Table) error {
	return write(h, "update", to, func() error {
		flows := staleFlows(from, to)
		if from.Damage != "" || !sameBypass(from, to) || from.parts() != to.parts() {
			if err := create(h, to, true); err != nil {
				return err
			}
			if err := flows.delete(h); err != nil {
				return err
			}
			return tracked(to).forget(h)
		}
		drained, any := drain(from, to)
		if err := change(h, from, drained); err != nil {
			return err
		}
		if err := flows.delete(h); err != nil || !any {
			return err
		}
		return change(h, drained, to)
	})
}

// Delete implements reconciler.Ops. Whose the table is, is read just before.
func (Ops) Delete(_ context.Context, h *host.Host, t Table) error {
	return write(h, "delete", Table{}, func() error {
		owner, err := ownerOf(h.Node)
		if err != nil && (errors.Is(err, fs.ErrNotExist) || missing(err)) || owner != "" {
			return nil
		}
		if err != nil {
			return err
		}
		c, done, err := open()
		if err != nil {
			return err
		}
		defer done()
		c.DelTable(table)
		h.Wrote("delete %s", t.ID())
		if err := c.Flush(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return staleFlows(t, Table{}).delete(h)
	})
}

// write runs fn in the root namespace for a table that can be made.
func write(h *host.Host, verb string, t Table, fn func() error) error {
	err := t.unable()
	if err == nil {
		err = inRoot(h, fn)
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, t.ID(), err)
	}
	return nil
}

func inRoot(h *host.Host, fn func() error) error {
	ns, err := h.NS("")
	if err != nil {
		return err
	}
	return ns.Do(fn)
}

// missing reports whether an error says that the kernel has no nftables.
func missing(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)
}

// Limits of one transaction.
const (
	perMessage = 400      // elements; attributes end at 64 KiB
	sendBuffer = 64 << 20 // bytes; a transaction is sent as a whole, and 50,000 services take 20 MiB
	readBuffer = 8 << 20  // bytes; every message is acknowledged
)

// open returns a connection in the calling thread's namespace that holds large transactions.
func open() (c *nftables.Conn, done func(), err error) {
	c, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(
		func(c *netlink.Conn) error { return c.SetWriteBuffer(sendBuffer) },
		func(c *netlink.Conn) error { return c.SetReadBuffer(readBuffer) },
	))
	if err != nil {
		return nil, nil, fmt.Errorf("open nftables: %w", err)
	}
	return c, func() { _ = c.CloseLasting() }, nil
}

// create makes the table with all that is in it, in the place of a damaged one if there is one.
func create(h *host.Host, t Table, anew bool) error {
	c, done, err := open()
	if err != nil {
		return err
	}
	defer done()
	if anew {
		c.DelTable(table)
	}
	c.CreateTable(table)
	all := t.parts().sets()
	all[markedSet].Comment = mark(h.Node)
	elements, chains := t.content()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := c.AddSet(all[name], nil); err != nil {
			return err
		}
	}
	addChains(c, chains)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := eachPart(all[name], elements[name], c.SetAddElements); err != nil {
			return err
		}
	}
	h.Wrote("create %s", t.ID())
	return c.Flush()
}

// change brings the elements from one state to another.
func change(h *host.Host, from, to Table) error {
	c, done, err := open()
	if err != nil {
		return err
	}
	defer done()
	d := difference(from, to)
	chains := newChains(d.add)
	maps.DeleteFunc(chains, func(name string, _ ruleChain) bool { _, add := d.add[name]; return !add })
	addChains(c, chains)
	all := newSets()
	n := 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := eachPart(all[name], d.gone[name], c.SetDeleteElements); err != nil {
			return err
		}
		if err := eachPart(all[name], d.fresh[name], c.SetAddElements); err != nil {
			return err
		}
		n += len(d.gone[name]) + len(d.fresh[name])
	}
	for _, name := range slices.Sorted(maps.Keys(d.drop)) {
		c.DelChain(&nftables.Chain{Table: table, Name: name})
	}
	if to.Masquerades() {
		m, err := changeMasquerade(c, from.Masquerade, to.Masquerade)
		if err != nil {
			return err
		}
		n += m
	}
	if n == 0 {
		return nil
	}
	h.Wrote("update %s: %d elements deleted or added", to.ID(), n)
	return c.Flush()
}

// addChains adds chains, then their rules: a rule may name any of the chains.
func addChains(c *nftables.Conn, chains map[string]ruleChain) {
	names := slices.Sorted(maps.Keys(chains))
	for _, name := range names {
		c.AddChain(chains[name].Chain)
	}
	for _, name := range names {
		for _, r := range chains[name].rules {
			c.AddRule(&nftables.Rule{Table: table, Chain: chains[name].Chain, Exprs: r.Exprs})
		}
	}
}

// eachPart hands elements on in parts that fit a message.
func eachPart(s *nftables.Set, elements map[string]element, f func(*nftables.Set, []nftables.SetElement) error) error {
	part := make([]nftables.SetElement, 0, min(len(elements), perMessage))
	keys := slices.Collect(maps.Keys(elements))
	if s.Interval {
		slices.Sort(keys) // the kernel refuses an end before its beginning
	}
	for _, key := range keys {
		e := elements[key]
		el := nftables.SetElement{Key: []byte(key), Comment: e.comment}
		switch {
		case s.Interval:
			size := int(s.KeyType.Bytes)
			el.Key, el.IntervalEnd = []byte(key[:size]), len(key) > size
		case e.value == "":
		case s.DataType.Name == nftables.TypeVerdict.Name:
			el.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: e.value}
		default:
			el.Val = []byte(e.value)
		}
		if part = append(part, el); len(part) == perMessage {
			if err := f(s, part); err != nil {
				return err
			}
			part = part[:0]
		}
	}
	if len(part) == 0 {
		return nil
	}
	return f(s, part)
}
