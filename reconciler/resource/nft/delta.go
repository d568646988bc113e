package nft

import "plumb.internal/plumb/reconciler/resource"

// delta is how to get from one table to another.
type delta struct {
	gone, fresh sets // elements; one that changes is in both
	// drop and add are chains that nothing of the new table goes to, and that nothing of the old one went to.
	drop, add map[string]chain
}

// difference costs little where little differs: both tables are in the same order, and of what is around the frontends
// that differ, only as much is read as is needed to know that others use the same chain or backend.
func difference(from, to Table) delta {
	a, b := from.Frontends, to.Frontends
	equal := func(x, y resource.Frontend) bool { return x.Key() == y.Key() && same(x, y) }
	for len(a) > 0 && len(b) > 0 && equal(a[0], b[0]) {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && equal(a[len(a)-1], b[len(b)-1]) {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	was, drop := encode(Table{Frontends: a, Segments: from.Segments})
	is, add := encode(Table{Frontends: b, Segments: to.Segments})
	for name, elements := range was {
		for key, e := range elements {
			if now, ok := is[name][key]; ok && now == e {
				delete(elements, key)
				delete(is[name], key)
			}
		}
	}
	both := func(name string) bool { _, x := drop[name]; _, y := add[name]; return x && y }
	for name := range drop {
		if both(name) {
			delete(drop, name)
			delete(add, name)
		}
	}
	// What a frontend used that differs, or comes to use, others may use too.
	unused(to, drop, was)
	unused(from, add, is)
	return delta{was, is, drop, add}
}

// unused takes away from chains and from the addresses of backends what a table uses.
func unused(t Table, chains map[string]chain, s sets) {
	v4, v6 := s[hairpinSet+"4"], s[hairpinSet+"6"]
	for _, f := range t.Frontends {
		if len(chains)+len(v4)+len(v6) == 0 {
			return
		}
		if len(chains) > 0 {
			if c, ok := chainOf(f); ok {
				delete(chains, c.name())
			}
		}
		if len(v4)+len(v6) > 0 {
			for _, b := range f.Backends {
				key := hairpinKey(b.Address)
				delete(v4, key)
				delete(v6, key)
			}
		}
	}
}
