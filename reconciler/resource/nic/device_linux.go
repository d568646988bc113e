package nic

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/host"
)

// device is one device as it is now.
type device struct {
	ns   *host.NS
	link *host.Link
	own  bool // plumb made it
}

// linkAttrs are the settings that rtnetlink has, by attribute.
var linkAttrs = map[Setting]int{
	MTU: unix.IFLA_MTU, GSO: unix.IFLA_GSO_MAX_SIZE, GRO: unix.IFLA_GRO_MAX_SIZE,
	GSO4: unix.IFLA_GSO_IPV4_MAX_SIZE, GRO4: unix.IFLA_GRO_IPV4_MAX_SIZE,
}

// takenAlong are the sizes of IPv4 that the kernel makes plain with those of all where these become so. They are somebody's.
var takenAlong = map[Setting]Setting{GSO: GSO4, GRO: GRO4}

// ofGroup are the settings of a group that a device has. A kernel that doesn't know a size doesn't tell it.
func (d *device) ofGroup(g group) (Values, error) {
	values := Values{}
	if g == ofLink {
		l := d.link
		for s, v := range (Values{MTU: uint32(l.MTU), GSO: l.GSOMaxSize, GRO: l.GROMaxSize, GSO4: l.GSOIPv4MaxSize, GRO4: l.GROIPv4MaxSize}) {
			if v != 0 {
				values[s] = v
			}
		}
		return values, nil
	}
	var w []uint32
	err := d.ns.Do(func() (err error) {
		w, err = ask(d.link.Name, g)
		return err
	})
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENODEV):
		return values, nil
	case err != nil:
		return nil, fmt.Errorf("ask the driver of %s: %w", d.link.Name, err)
	}
	for _, s := range settings {
		if s.group == g {
			values[s.name] = w[words[s.name]]
		}
	}
	return values, nil
}

// read returns those of some settings that the device has.
func (d *device) read(some func(Setting) bool) (Values, error) {
	all, values := map[group]Values{}, Values{}
	for _, s := range settings {
		if !some(s.name) {
			continue
		}
		if all[s.group] == nil {
			v, err := d.ofGroup(s.group)
			if err != nil {
				return nil, err
			}
			all[s.group] = v
		}
		if v, ok := all[s.group][s.name]; ok {
			values[s.name] = v
		}
	}
	return values, nil
}

// write sets some settings of one group and reads them back: drivers round them, and old kernels ignore sizes that they
// don't know. What was refused, or came out otherwise, is put back to what it was.
func (d *device) write(h *host.Host, n NIC, g group, values Values) error {
	before, err := d.ofGroup(g)
	if err != nil {
		return err
	}
	for both, v4 := range takenAlong {
		if v, ok := values[both]; ok && v <= plain && before[v4] > plain && values[v4] == 0 {
			values[v4] = before[v4]
		}
	}
	h.Wrote("set %s", NIC{Dev: n.ID().String(), Values: values}.Describe())
	err = d.send(g, values)
	if err == nil {
		var after Values
		if after, err = d.again(g); err != nil {
			return err
		}
		for _, s := range settings {
			if v, ok := values[s.name]; ok && after[s.name] != v {
				err = errors.Join(err, fmt.Errorf("the device made %d of %s %d", after[s.name], s.name, v))
			}
		}
	}
	if err == nil {
		return nil
	}
	back := Values{}
	for s := range values {
		if v, ok := before[s]; ok {
			back[s] = v
		}
	}
	_ = d.send(g, back) // should this fail too, there is the record
	return fmt.Errorf("set %s: %w", NIC{Dev: n.ID().String(), Values: values}.Describe(), err)
}

func (d *device) again(g group) (Values, error) {
	if g == ofLink {
		l, err := d.ns.Link(d.link.Name)
		if err != nil {
			return nil, err
		}
		d.link = l
	}
	return d.ofGroup(g)
}

func (d *device) send(g group, values Values) error {
	if len(values) == 0 {
		return nil
	}
	if g != ofLink {
		return d.ns.Do(func() error { return tell(d.link.Name, g, values) })
	}
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(d.link.Index)
	req.AddData(msg)
	for _, s := range settings { // in this order: a plain gso_max_size takes the IPv4 one along
		if v, ok := values[s.name]; ok {
			req.AddData(nl.NewRtAttr(linkAttrs[s.name], nl.Uint32Attr(v)))
		}
	}
	err := d.ns.Request(req)
	if limit := d.link.TSOMaxSize; errors.Is(err, unix.EINVAL) && max(values[GSO], values[GSO4]) > max(limit, plain) {
		if limit == 0 {
			return fmt.Errorf("this kernel has no packets above 64 KiB: %w: %w", unix.EOPNOTSUPP, err)
		}
		return fmt.Errorf("the driver takes packets of at most %d bytes: %w", limit, err)
	}
	return err
}

// missing says which wanted settings a device hasn't got.
func missing(dev string, wanted, there Values) error {
	var names []string
	for _, s := range settings {
		if _, ok := wanted[s.name]; !ok {
			continue
		}
		if _, ok := there[s.name]; !ok {
			names = append(names, string(s.name))
		}
	}
	if names == nil {
		return nil
	}
	return fmt.Errorf("not available here: device %s has no %s: %w", dev, strings.Join(names, ", "), unix.EOPNOTSUPP)
}

// unwanted are the sizes of a device of plumb's that go back to what the kernel gave it.
func unwanted(there, wanted Values) Values {
	back := Values{}
	for _, s := range sizes {
		if _, ok := wanted[s]; !ok && there[s] > plain {
			back[s] = plain
		}
	}
	return back
}

// union are the settings of all of several values.
func union(all ...Values) Values {
	u := Values{}
	for _, v := range all {
		maps.Copy(u, v)
	}
	return u
}
