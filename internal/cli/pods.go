package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"text/tabwriter"

	"plumb.internal/plumb/compiler"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler"
)

// pods is what `plumb pod ls -o json` writes.
type pods struct {
	FormatVersion string   `json:"format_version"`
	Node          string   `json:"node"`
	Pods          []podRow `json:"pods"`
}

// podRow is one pod as the kernel has it.
type podRow struct {
	// ID is the cookie of the pod's network namespace, by which socket programs know it; 0 where they don't.
	ID        uint64   `json:"id"`
	Name      string   `json:"name"`
	State     string   `json:"state"` // up, down, no interface, missing, waiting
	Attach    string   `json:"attach"`
	Interface string   `json:"interface"`
	Index     int      `json:"ifindex"`
	MAC       string   `json:"mac"`
	MTU       int      `json:"mtu"`
	HostDev   *hostDev `json:"host_device"`
	Addresses []string `json:"addresses"`
	NetNS     string   `json:"netns"`
	// SourceCheck says how far the pod is kept from sending as somebody else: enforced, leaving only, off.
	SourceCheck string `json:"source_check"`
	// Endpoint is the pod as the data path knows it; nil where it doesn't.
	Endpoint *endpointRow `json:"endpoint"`
}

// endpointRow is a pod in the data path's maps.
type endpointRow struct {
	Addresses []string `json:"addresses"`
	Attach    string   `json:"attach"`
	Index     int      `json:"ifindex"` // of the device in the root namespace that stands for it
	MAC       string   `json:"mac"`
	HostMAC   string   `json:"host_mac"`
	Socket    bool     `json:"socket"` // socket programs act for it
}

// hostDev is the device in the node's root namespace that leads to a pod.
type hostDev struct {
	Name  string `json:"name"`
	Index int    `json:"ifindex"`
	MAC   string `json:"mac"`
	MTU   int    `json:"mtu"`
}

// Pods lists the node's pods with what the kernel and the data path have of them. The files only say which pods there are.
func (o *Options) Pods(ctx context.Context) error {
	var all pods
	err := o.look(ctx, "pods", &all, func(s *session) (err error) {
		all, err = s.pods(ctx)
		return err
	})
	if err != nil {
		return err
	}
	if o.JSON() {
		return o.writeJSON(all)
	}
	return o.writePods(all.Pods)
}

// pods reads them.
func (s *session) pods(ctx context.Context) (pods, error) {
	// Tells the host where adopted namespaces are, too.
	observed, err := reconciler.Observe(ctx, s.host, s.compiled.State)
	if err != nil {
		return pods{}, err
	}
	known, err := readEndpoints(s.host, observed.All())
	if err != nil {
		return pods{}, err
	}
	d := datapathOf(observed.All())
	all := pods{FormatVersion: "1", Node: s.node, Pods: []podRow{}}
	for _, view := range s.compiled.Pods {
		row, err := lookAtPod(s.host, view)
		if err != nil {
			return pods{}, fmt.Errorf("look at pod %s: %w", view.Name, err)
		}
		row.SourceCheck = checkOff
		if e := known[view.Name]; e != nil {
			row.Endpoint = e
			if row.ID, err = podID(s.host, view.Name, e); err != nil {
				return pods{}, err
			}
			if row.SourceCheck, err = sourceCheck(s.host, d, e); err != nil {
				return pods{}, err
			}
		}
		all.Pods = append(all.Pods, row)
	}
	return all, nil
}

// writePods prints a line for each pod. Where the data path knows a pod, its word is printed.
func (o *Options) writePods(rows []podRow) error {
	w := tabwriter.NewWriter(o.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "POD\tSTATE\tATTACH\tINTERFACE\tMTU\tMAC\tHOST DEVICE\tSOURCE CHECK\tID\tADDRESSES")
	for _, r := range rows {
		dev, iface, mtu, id := "-", r.Interface, "-", "-"
		if r.HostDev != nil {
			dev = fmt.Sprintf("%d: %s", r.HostDev.Index, r.HostDev.Name)
			if o.Verbose {
				dev += " " + r.HostDev.MAC
			}
		}
		if r.Index > 0 {
			iface, mtu = fmt.Sprintf("%d: %s", r.Index, r.Interface), fmt.Sprint(r.MTU)
		}
		if r.ID != 0 {
			id = fmt.Sprint(r.ID)
		}
		attach, mac, addresses := r.Attach, r.MAC, r.Addresses
		if e := r.Endpoint; e != nil && len(e.Addresses) > 0 {
			attach, addresses = e.Attach, e.Addresses
			if e.MAC != "" {
				mac = e.MAC
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, r.State, attach, iface, mtu, orDash(mac), dev,
			r.SourceCheck, id, list(addresses))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write pods: %w", err)
	}
	return nil
}

func lookAtPod(h *host.Host, view compiler.PodView) (podRow, error) {
	row := podRow{Name: view.Name, State: "missing", Attach: "-", Interface: view.Interface, NetNS: view.NetNSPath, Addresses: []string{}}
	ns, err := h.NS(view.Name)
	switch {
	case errors.Is(err, host.ErrWaiting):
		row.State = "waiting"
		return row, nil
	case errors.Is(err, fs.ErrNotExist):
		return row, nil
	case err != nil:
		return row, err
	}
	link, err := ns.Link(view.Interface)
	if errors.Is(err, fs.ErrNotExist) {
		row.State = "no interface"
		return row, nil
	} else if err != nil {
		return row, err
	}
	row.State = "down"
	if link.Up() {
		row.State = "up"
	}
	row.Index, row.MAC, row.MTU = link.Index, link.HardwareAddr.String(), link.MTU
	addrs, err := ns.Addrs()
	if err != nil {
		return row, err
	}
	for _, a := range addrs {
		if a.LinkIndex == link.Index && !a.IP.IsLinkLocalUnicast() {
			row.Addresses = append(row.Addresses, a.IP.String())
		}
	}
	root, err := h.NS("")
	if err != nil {
		return row, err
	}
	var dev *host.Link
	if view.HostDev != "" {
		if dev, err = root.Link(view.HostDev); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return row, err
		}
	}
	if dev != nil {
		row.HostDev = &hostDev{dev.Name, dev.Index, dev.HardwareAddr.String(), dev.MTU}
	}
	row.Attach = attachment(link, dev)
	return row, nil
}

// attachment names the attachment of a pod's device. The other end of a veth tells whether it is a bridge's port.
func attachment(link, dev *host.Link) string {
	switch link.Type() {
	case "veth":
		if dev != nil && dev.MasterIndex != 0 {
			return "bridge"
		}
	case "ipvlan":
		if link.Mode == 1 {
			return "ipvlan-l3"
		}
		return "ipvlan-l2"
	}
	return link.Type()
}
