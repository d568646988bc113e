package host

import (
	"context"

	"plumb.internal/plumb/reconciler/resource"
)

// Devices are the links of one namespace by index, for those who read its other tables.
type Devices struct {
	// NS is the namespace.
	NS *NS
	// Own says that the namespace itself carries our mark: it isn't the root, nor an adopted one.
	Own bool

	links map[int]*Link
	ends  map[int]resource.ID // links of pods by the index of their other end; in the root namespace only
}

// Devices returns the links of every namespace that Namespaces lists, in its order.
func (h *Host) Devices(ctx context.Context) ([]*Devices, error) {
	names, err := h.Namespaces(ctx)
	if err != nil {
		return nil, err
	}
	var root *Devices
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
		d := &Devices{NS: ns, links: make(map[int]*Link, len(links))}
		for _, l := range links {
			d.links[l.Index] = l
			d.Own = d.Own || (name != "" && l.Name == "lo" && l.Group == resource.Group)
		}
		if name == "" {
			root, d.ends = d, make(map[int]resource.ID, len(names))
		}
		all = append(all, d)
	}
	for _, d := range all {
		for _, l := range d.links {
			// Both ends of a pair know the other's index, which alone says little: indexes repeat between namespaces.
			end := root.links[l.ParentIndex]
			if d != root && l.NetNsID >= 0 && end != nil && end.Group == resource.Group && end.NetNsID >= 0 &&
				end.ParentIndex == l.Index && end.Kind == l.Kind && h.mayBelong(end, d.NS.Name) {
				root.ends[end.Index] = linkID(d.NS.Name, l.Name)
			}
		}
	}
	return all, nil
}

// mayBelong reports whether the alias of a link, which a killed creation leaves out, says nothing against a pod.
func (h *Host) mayBelong(l *Link, pod string) bool {
	return l.Alias == "" || l.Alias == h.Alias(pod)
}

func linkID(netns, name string) resource.ID {
	return resource.ID{Kind: "link", NetNS: netns, Name: name}
}

// Name is the name of a device, "" where there is none of that index.
func (d *Devices) Name(index int) string {
	if l := d.links[index]; l != nil {
		return l.Name
	}
	return ""
}

// Ours reports whether a device carries our mark.
func (d *Devices) Ours(index int) bool {
	l := d.links[index]
	return l != nil && l.Group == resource.Group
}

// Maker is the ID of what takes an object on a device along when it goes: the link resource that made the device, or
// our namespace. It is zero for a device that isn't ours.
func (d *Devices) Maker(index int) resource.ID {
	l := d.links[index]
	switch {
	case d.Own && (l == nil || l.Name == "lo"):
		return resource.ID{Kind: "netns", Name: d.NS.Name}
	case d.Own || (l != nil && d.NS.Name != "" && l.Group == resource.Group):
		return linkID(d.NS.Name, l.Name)
	case l == nil || l.Group != resource.Group:
		return resource.ID{}
	}
	if id, ok := d.ends[index]; ok {
		return id
	}
	return linkID("", l.Name)
}
