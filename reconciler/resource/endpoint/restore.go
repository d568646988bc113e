package endpoint

import (
	"net/netip"
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
	e.Held, e.Attach, e.MAC, e.HostMAC = nil, "", "", ""
	_, e.Socket = held[namespace]
	for _, name := range names(held) {
		if dev, ok := strings.CutPrefix(name, uplinkPrefix); ok && !strings.HasPrefix(dev, gone) {
			e.Uplinks = append(e.Uplinks, dev)
			continue
		}
		a, err := netip.ParseAddr(name)
		if err != nil {
			continue
		}
		attach, dev, mac, hostMAC := parse(held[name])
		if dev != e.Dev || strings.HasPrefix(dev, gone) {
			continue
		}
		e.Addresses, e.Attach, e.MAC, e.HostMAC = append(e.Addresses, a), attach, mac, hostMAC
	}
	return e
}

// parse is the opposite of text.
func parse(text string) (attach, dev, mac, hostMAC string) {
	words := strings.Fields(text)
	if len(words) == 0 {
		return "", "", "", ""
	}
	values := map[string]string{}
	for i := 1; i+1 < len(words); i += 2 {
		values[words[i]] = words[i+1]
	}
	return words[0], values["dev"], values["lladdr"], values["via"]
}
