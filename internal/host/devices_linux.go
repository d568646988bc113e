package host

import "plumb.internal/plumb/reconciler/resource"

// Devices are the links of one namespace by index, for those who read its other tables.
type Devices struct {
	links map[int]*Link
	// Own says that the namespace itself carries our mark: it isn't the root, nor an adopted one.
	Own bool
}

// Devices returns the links of the namespace by index.
func (ns *NS) Devices() (*Devices, error) {
	links, err := ns.Links()
	if err != nil {
		return nil, err
	}
	d := &Devices{links: make(map[int]*Link, len(links))}
	for _, l := range links {
		d.links[l.Index] = l
		d.Own = d.Own || (ns.Name != "" && l.Name == "lo" && l.Group == resource.Group)
	}
	return d, nil
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
