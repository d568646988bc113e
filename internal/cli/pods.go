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

// podRow is one pod as the kernel has it.
type podRow struct {
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
}

// hostDev is the device in the node's root namespace that leads to a pod.
type hostDev struct {
	Name  string `json:"name"`
	Index int    `json:"ifindex"`
	MAC   string `json:"mac"`
	MTU   int    `json:"mtu"`
}

// Pods lists the node's pods with what the kernel has of them. The files only say which pods there are.
func (o *Options) Pods(ctx context.Context) error {
	s, err := o.begin(ctx, "pod ls", "")
	if err != nil {
		return err
	}
	defer s.close()
	// Tells the host where adopted namespaces are.
	if _, err := reconciler.Observe(ctx, s.host, s.compiled.State); err != nil {
		return err
	}
	rows := []podRow{}
	for _, view := range s.compiled.Pods {
		row, err := lookAtPod(s.host, view)
		if err != nil {
			return fmt.Errorf("look at pod %s: %w", view.Name, err)
		}
		rows = append(rows, row)
	}
	if o.JSON() {
		return o.writeJSON(rows)
	}
	w := tabwriter.NewWriter(o.Out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "POD\tSTATE\tATTACH\tINTERFACE\tMTU\tMAC\tHOST DEVICE\tADDRESSES")
	for _, r := range rows {
		dev, iface, mtu := "-", r.Interface, "-"
		if r.HostDev != nil {
			dev = fmt.Sprintf("%d: %s", r.HostDev.Index, r.HostDev.Name)
			if o.Verbose {
				dev += " " + r.HostDev.MAC
			}
		}
		if r.Index > 0 {
			iface, mtu = fmt.Sprintf("%d: %s", r.Index, r.Interface), fmt.Sprint(r.MTU)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Name, r.State, r.Attach, iface, mtu, orDash(r.MAC), dev, list(r.Addresses))
	}
	return w.Flush()
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
