package host

import (
	"context"
	"strings"

	"plumb.internal/plumb/reconciler/resource"
)

// Devices are the links of one namespace by index, for those who read its other tables.
type Devices struct {
	// NS is the namespace.
	NS *NS
	// Own says that the namespace itself carries our mark: it isn't the root, nor an adopted one.
	Own bool

	h     *Host
	links map[int]*Link
}

// Devices returns the links of every namespace that Namespaces lists, in its order.
func (h *Host) Devices(ctx context.Context) ([]*Devices, error) {
	names, err := h.Namespaces(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]*Devices, 0, len(names))
	for _, name := range names {
		ns, err := h.NS(name)
		if err != nil {
			return nil, err
		}
		links, err := ns.Links()
		if err != nil {
			return nil, err
		}
		d := &Devices{NS: ns, h: h, links: make(map[int]*Link, len(links))}
		for _, l := range links {
			d.links[l.Index] = l
			d.Own = d.Own || (name != "" && l.Name == "lo" && l.Group == resource.Group)
		}
		all = append(all, d)
	}
	return all, nil
}

// Name is the name of a device, "" where there is none of that index.
func (d *Devices) Name(index int) string {
	if l := d.links[index]; l != nil {
		return l.Name
	}
	return ""
}

// Ours reports whether a device carries our mark; lo does in a namespace that itself does.
func (d *Devices) Ours(index int) bool {
	l := d.links[index]
	return l != nil && (d.h.Ours(l) || d.Own && l.Name == "lo")
}

// Ours reports whether a device carries our mark: our group or, should somebody have cleared that, our alias. A physical
// device never is ours, nor one of another node's.
func (h *Host) Ours(l *Link) bool {
	if _, other := h.OtherNode(l.Alias); other || l.Kind == "" {
		return false
	}
	return l.Group == resource.Group || strings.HasPrefix(l.Alias, h.Alias(""))
}
