package nic

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/go-multierror"

	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/internal/prior"
	"plumb.internal/plumb/reconciler/resource"
)

// record is what settings of somebody else's device were before their first change.
type record struct {
	Index int    `json:"index"` // of the device: another one may have the name now
	Prior Values `json:"prior"`
	// Ours are all values that were set since: the last of them may not have been reached.
	Ours map[Setting][]uint32 `json:"ours"`
}

// Observe implements reconciler.Ops: the devices that are wanted, those that have a record, and those of plumb's that have
// sizes which only plumb gives. Of each the settings that are wanted or on record. A wanted device that is there counts as
// ours, as all its settings exist anyway. Nothing is foreign. A setting that a device hasn't got is an error.
func (Ops) Observe(ctx context.Context, h *host.Host, wanted []NIC) (owned, foreign []NIC, err error) {
	names, err := prior.Names(h, prior.NICs)
	if err != nil {
		return nil, nil, err
	}
	all, err := h.Devices(ctx)
	if err != nil {
		return nil, nil, err
	}
	asked := make(map[[2]string]NIC, len(wanted))
	for _, n := range wanted {
		asked[[2]string{n.NetNS, n.Dev}] = n
	}
	var refused *multierror.Error
	refuse := func(n NIC, err error) {
		if err != nil && n.From != "" {
			err = fmt.Errorf("%s: %w", n.From, err)
		}
		if err != nil {
			refused = multierror.Append(refused, err)
		}
	}
	for _, devices := range all {
		links, err := devices.NS.Links()
		if err != nil {
			return nil, nil, err
		}
		for _, l := range links {
			d := &device{ns: devices.NS, link: l, own: devices.Ours(l.Index)}
			key := [2]string{devices.NS.Name, l.Name}
			n, isAsked := asked[key]
			onRecord := !d.own && key[0] == "" && slices.Contains(names, l.Name)
			if !isAsked && !onRecord && (!d.own || len(unwanted(d.sizes(), nil)) == 0) {
				continue
			}
			found, err := d.observe(h, key, n.Values)
			if err != nil {
				return nil, nil, err
			}
			refuse(n, missing(l.Name, n.Values, found.Values))
			owned = append(owned, found)
			delete(asked, key)
			names = slices.DeleteFunc(names, func(name string) bool { return !d.own && key[0] == "" && name == l.Name })
		}
	}
	for _, n := range asked {
		if n.NetNS == "" && n.Link == (resource.ID{}) {
			refuse(n, fmt.Errorf("not available here: there is no device %s", n.Dev))
		}
	}
	for _, name := range names {
		owned = append(owned, NIC{Dev: name}) // only the record is left
	}
	if refused != nil {
		slices.SortFunc(refused.Errors, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	}
	if refused != nil && len(refused.Errors) == 1 {
		return nil, nil, refused.Errors[0]
	}
	return owned, nil, refused.ErrorOrNil()
}

func (d *device) sizes() Values {
	v, _ := d.ofGroup(ofLink) // it fails only where a driver is asked
	return v
}

// observe reads the settings of a device that are wanted, or on record, or that only plumb makes so.
func (d *device) observe(h *host.Host, key [2]string, wanted Values) (NIC, error) {
	n := NIC{NetNS: key[0], Dev: key[1], soft: d.link.Kind != ""}
	if d.own {
		n.prior = unwanted(d.sizes(), nil)
	} else {
		rec, err := d.record(h, n)
		if err != nil {
			return n, err
		}
		n.prior = rec.Prior
	}
	look := union(wanted, n.prior)
	values, err := d.read(func(s Setting) bool { _, ok := look[s]; return ok })
	n.Values = values
	return n, err
}

// record is what is on record of a device; of another one that had the name nothing.
func (d *device) record(h *host.Host, n NIC) (record, error) {
	rec := record{}
	if n.NetNS != "" {
		return rec, nil
	}
	if _, err := prior.Read(h, prior.NICs, n.Dev, &rec); err != nil {
		return rec, err
	}
	if rec.Index != d.link.Index {
		rec = record{}
	}
	return rec, nil
}

// find looks a device up.
func find(h *host.Host, n NIC) (*device, error) {
	ns, err := h.NS(n.NetNS)
	if err != nil {
		return nil, err
	}
	l, err := ns.Link(n.Dev)
	if err != nil {
		return nil, err
	}
	return &device{ns: ns, link: l, own: h.Ours(l)}, nil
}

// Create implements reconciler.Ops: the device wasn't there when the plan was made.
func (Ops) Create(_ context.Context, h *host.Host, n NIC) error { return set(h, n) }

// Update implements reconciler.Ops.
func (Ops) Update(_ context.Context, h *host.Host, _, to NIC) error { return set(h, to) }

// Delete implements reconciler.Ops: what plumb has set goes back to what it was, where it still is as plumb set it.
func (Ops) Delete(_ context.Context, h *host.Host, n NIC) error {
	n.Values = nil
	err := set(h, n)
	if errors.Is(err, fs.ErrNotExist) { // gone with its namespace, or on its own
		if n.NetNS != "" {
			return nil
		}
		return prior.Drop(h, prior.NICs, n.Dev, n.ID())
	}
	return err
}

// set brings a device to the wanted values, and what isn't wanted back to what it was.
func set(h *host.Host, n NIC) error {
	d, err := find(h, n)
	if err != nil {
		return fmt.Errorf("set %s: %w", n.ID(), err)
	}
	if d.own {
		if err := missing(n.Dev, n.Values, d.sizes()); err != nil {
			return err
		}
		return d.bring(h, n, d.sizes(), union(n.Values, unwanted(d.sizes(), n.Values)))
	}
	if n.NetNS != "" {
		return fmt.Errorf("set %s: the device isn't plumb's", n.ID())
	}
	rec, err := d.record(h, n)
	if err != nil {
		return err
	}
	now, err := d.read(func(s Setting) bool {
		_, wanted := n.Values[s]
		_, known := rec.Prior[s]
		return wanted || known
	})
	if err != nil {
		return err
	}
	if err := missing(n.Dev, n.Values, now); err != nil {
		return err
	}
	values := maps.Clone(n.Values)
	if values == nil {
		values = Values{}
	}
	for s, before := range rec.Prior {
		if _, wanted := values[s]; wanted {
			continue
		}
		switch v, there := now[s]; {
		case !there || v == before:
		case slices.Contains(rec.Ours[s], v):
			values[s] = before
		default:
			h.Warn("%s of device %s is %d now, which plumb didn't set: it stays (it was %d before plumb)", s, n.Dev, v, before)
		}
	}
	if err := rec.extend(h, d, n, now); err != nil {
		return err
	}
	if err := d.bring(h, n, now, values); err != nil {
		return err
	}
	return rec.prune(h, n)
}

// bring writes what differs, group by group.
func (d *device) bring(h *host.Host, n NIC, now, values Values) error {
	for g := range groups {
		differ := Values{}
		for _, s := range settings {
			if v, ok := values[s.name]; ok && s.group == g && now[s.name] != v {
				differ[s.name] = v
			}
		}
		if len(differ) == 0 {
			continue
		}
		if err := d.write(h, n, g, differ); err != nil {
			return err
		}
	}
	return nil
}

// extend puts what is about to be changed on record.
func (r *record) extend(h *host.Host, d *device, n NIC, now Values) error {
	changed := false
	for s, v := range n.Values {
		if _, known := r.Prior[s]; !known {
			if now[s] == v {
				continue // what is left alone isn't ours
			}
			if r.Prior == nil {
				r.Index, r.Prior, r.Ours = d.link.Index, Values{}, map[Setting][]uint32{}
			}
			r.Prior[s], changed = now[s], true
		}
		if !slices.Contains(r.Ours[s], v) {
			r.Ours[s], changed = append(r.Ours[s], v), true
		}
	}
	if !changed {
		return nil
	}
	return prior.Write(h, prior.NICs, n.Dev, n.ID(), r)
}

// prune takes off the record what is as it was and isn't wanted any more. It also drops a record of another device.
func (r *record) prune(h *host.Host, n NIC) error {
	before := len(r.Prior)
	maps.DeleteFunc(r.Prior, func(s Setting, _ uint32) bool { _, wanted := n.Values[s]; return !wanted })
	maps.DeleteFunc(r.Ours, func(s Setting, _ []uint32) bool { _, wanted := n.Values[s]; return !wanted })
	switch len(r.Prior) {
	case 0:
		return prior.Drop(h, prior.NICs, n.Dev, n.ID())
	case before:
		return nil
	}
	return prior.Write(h, prior.NICs, n.Dev, n.ID(), r)
}
