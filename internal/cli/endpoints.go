package cli

import (
	"net/netip"
	"slices"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/internal/host"
	"plumb.internal/plumb/reconciler/resource"
	"plumb.internal/plumb/reconciler/resource/endpoint"
)

// readEndpoints reads what the maps hold of pods. Which entry is whose was observed.
func readEndpoints(h *host.Host, owned resource.State) (map[string]*endpointRow, error) {
	entries := map[netip.Addr]bpf.Endpoint{}
	err := eachPinned(h, "endpoints", func(m host.BPFMap, _ int) error {
		return bpf.Each(m.Map, func(k bpf.Address, v bpf.Endpoint) { entries[k.Addr()] = v })
	})
	if err != nil {
		return nil, err
	}
	rows := map[string]*endpointRow{}
	for _, r := range owned {
		e, ok := r.(endpoint.Endpoint)
		if !ok || e.NetNS == "" {
			continue
		}
		row := &endpointRow{Addresses: []string{}, Socket: e.Known()}
		var addrs []netip.Addr
		for name := range e.Held {
			if a, err := netip.ParseAddr(name); err == nil {
				addrs = append(addrs, a)
			}
		}
		slices.SortFunc(addrs, netip.Addr.Compare)
		for i, a := range addrs {
			row.Addresses = append(row.Addresses, a.String())
			if v := entries[a]; i == 0 {
				row.Attach, row.Index = endpoint.AttachName(v.Attach), int(v.Ifindex)
				row.MAC, row.HostMAC = v.MAC.String(), v.HostMAC.String()
			}
		}
		rows[e.NetNS] = row
	}
	return rows, nil
}

// podID is the number by which socket programs know a pod.
func podID(h *host.Host, pod string, e *endpointRow) (uint64, error) {
	if !e.Socket {
		return 0, nil
	}
	ns, err := h.NS(pod)
	if err != nil {
		return 0, err
	}
	cookies, err := h.Cookies(ns)
	if err != nil {
		return 0, err
	}
	return cookies[0], nil
}

// sourceCheck says how far a pod is kept from sending as somebody else, by the programs on its device.
func sourceCheck(h *host.Host, d datapath, e *endpointRow) (string, error) {
	root, err := h.NS("")
	if err != nil {
		return "", err
	}
	links, err := root.Links()
	if err != nil {
		return "", err
	}
	for _, l := range links {
		if l.Index == e.Index {
			return d.sourceCheck(e.Attach, l.Name), nil
		}
	}
	return checkOff, nil
}
