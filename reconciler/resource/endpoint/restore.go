package endpoint

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"plumb.internal/plumb/reconciler/resource"
)

// Restored implements resource.Restorer: what the maps hold, as the addresses, devices and MACs that it comes from. Entries
// of nobody don't come back, nor do those that lead to a device that is gone.
func (e Endpoint) Restored(*resource.Found) resource.Resource {
	if e.Stale {
		return nil
	}
	if e.Held == nil {
		return e // it wasn't observed
	}
	held := e.Held
	e.Held, e.Attach, e.MAC, e.HostMAC, e.Rate, e.MTU = nil, "", "", "", 0, 0
	_, e.Socket = held[namespace]
	for _, name := range names(held) {
		if strings.HasPrefix(name, pacePrefix) {
			if rate, err := resource.ParseRate(held[name]); err == nil {
				e.Rate = rate
			}
			continue
		}
		a, err := netip.ParseAddr(name)
		if err != nil {
			continue
		}
		attach, dev, mac, hostMAC, mtu := parse(held[name])
		if dev != e.Dev || strings.HasPrefix(dev, gone) {
			continue
		}
		e.Addresses, e.Attach, e.MAC, e.HostMAC, e.MTU = append(e.Addresses, a), attach, mac, hostMAC, mtu
	}
	slices.SortFunc(e.Addresses, netip.Addr.Compare) // the limit counts by the first
	return e
}

// parse is the opposite of text.
func parse(text string) (attach, dev, mac, hostMAC string, mtu int) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return "", "", "", "", 0
	}
	values := map[string]string{}
	for i := 1; i+1 < len(words); i += 2 {
		values[words[i]] = words[i+1]
	}
	mtu, _ = strconv.Atoi(values["queued"])
	return words[0], values["dev"], values["lladdr"], values["via"], mtu
}
