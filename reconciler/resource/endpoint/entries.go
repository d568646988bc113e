package endpoint

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"plumb.internal/plumb/bpf"
	"plumb.internal/plumb/reconciler/resource"
)

// Names of entries: an address, "mac 02:00:00:00:00:01", "pace 10.0.0.10", "namespace" of the pod, "cookie 17" of nobody,
// "padded 0200000000010001" in hexadecimal for a MAC's key whose padding isn't zero.
const (
	pacePrefix   = "pace "
	namespace    = "namespace"
	macPrefix    = "mac "
	cookiePrefix = "cookie "
	oddPrefix    = "padded "
)

// gone begins the number of a device that is there no longer, in the place of its name.
const gone = "#"

// known is the text of a namespace's entry.
const known = "known to the socket programs"

// with begins the text of a pace whose packets count in the entry of another address.
const with = "with "

// attachments are the numbers of attachments in the maps.
var attachments = map[string]uint8{
	"veth": bpf.Veth, "netkit": bpf.Netkit, "bridge": bpf.Bridge,
	"macvlan": bpf.Macvlan, "ipvlan-l2": bpf.IPvlanL2, "ipvlan-l3": bpf.IPvlanL3,
}

// AttachName is the name of an attachment, as in the configuration.
func AttachName(number uint8) string {
	for name, n := range attachments {
		if n == number {
			return name
		}
	}
	return "attachment " + strconv.Itoa(int(number))
}

// entries are the endpoint's entries in words, by their names: "10.0.0.10" is "veth dev pl-web lladdr 02:… via 02:…".
func (e Endpoint) entries() map[string]string {
	if e.Held != nil {
		return e.Held
	}
	all := map[string]string{}
	for _, a := range e.Addresses {
		all[a.String()] = text(e.Attach, e.Dev, e.MAC, e.HostMAC, e.MTU)
		switch {
		case e.Rate == 0:
		case a == e.Addresses[0]:
			all[pacePrefix+a.String()] = resource.RateText(e.Rate)
		default:
			all[pacePrefix+a.String()] = with + e.Addresses[0].String()
		}
	}
	if e.hasMAC() {
		all[macPrefix+strings.ToLower(e.MAC)] = "dev " + e.Dev
	}
	if e.Socket {
		all[namespace] = known
	}
	return all
}

// hasMAC reports whether the source check of the uplink knows the pod by its MAC.
func (e Endpoint) hasMAC() bool { return attachments[e.Attach] == bpf.Macvlan && e.MAC != "" }

// text is an address's entry in words; "queued 1500" is for pods that get what fits by a queue.
func text(attach, dev, mac, hostMAC string, mtu int) string {
	s := attach + " dev " + dev
	if mac != "" {
		s += " lladdr " + strings.ToLower(mac)
	}
	if hostMAC != "" {
		s += " via " + strings.ToLower(hostMAC)
	}
	if mtu != 0 {
		s += " queued " + strconv.Itoa(mtu)
	}
	return s
}

// Known reports whether the socket programs act for the namespace of an observed endpoint.
func (e Endpoint) Known() bool { return e.Held[namespace] != "" }

// order is the order in which entries are written: addresses, then MACs, whose senders are asked for their addresses, and
// paces.
func order(names []string) []string {
	rank := func(name string) int {
		switch {
		case strings.HasPrefix(name, macPrefix), strings.HasPrefix(name, pacePrefix):
			return 1
		case name == namespace, strings.HasPrefix(name, cookiePrefix):
			return 2
		}
		return 0
	}
	slices.SortFunc(names, func(a, b string) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return names
}

// names lists the names of entries in their order.
func names(entries map[string]string) []string { return order(slices.Collect(maps.Keys(entries))) }

// leaves reports whether an entry that isn't the endpoint's stays: where no map of namespaces is wanted, that of the
// namespace goes with its map, when other programs do what those that ask for it do until then.
func (e Endpoint) leaves(name string) bool {
	return name == namespace && !slices.ContainsFunc(e.Maps, func(id resource.ID) bool { return strings.HasPrefix(id.Name, "namespaces.") })
}

// Ops implements reconciler.Ops for endpoints.
type Ops struct{}

// Diff lists the entries that differ.
func (Ops) Diff(observed, desired Endpoint) (fields []resource.Field, inPlace bool) {
	was, is := observed.entries(), desired.entries()
	if maps.Equal(was, is) {
		return nil, true
	}
	both := maps.Clone(was)
	maps.Copy(both, is)
	for _, name := range names(both) {
		if was[name] != is[name] && (is[name] != "" || !desired.leaves(name)) {
			fields = append(fields, resource.Field{Name: name, Before: was[name], After: is[name]})
		}
	}
	return fields, true
}

// Describe implements resource.Describer: "10.0.0.10 fd00:10::10 veth dev pl-web lladdr 02:… via 02:… rate
// 10Mbit".
func (e Endpoint) Describe() string {
	entries := e.entries()
	if e.Stale {
		return "of nobody: " + strings.Join(names(entries), ", ")
	}
	var words []string
	last := ""
	for _, name := range names(entries) {
		if _, err := netip.ParseAddr(name); err == nil {
			words, last = append(words, name), entries[name]
		}
	}
	if last == "" {
		words = []string{e.ID().Name}
		if e.Known() || e.Socket {
			words = append(words, known)
		}
		return strings.Join(words, " ")
	}
	words = append(words, last)
	for _, name := range names(entries) {
		if strings.HasPrefix(name, pacePrefix) && !strings.HasPrefix(entries[name], with) {
			words = append(words, "rate "+entries[name])
		}
	}
	return strings.Join(words, " ")
}

// Device implements resource.Sitter.
func (e Endpoint) Device() resource.Device { return resource.Device{Name: e.Dev} }

// WithLink implements resource.Sitter.
func (e Endpoint) WithLink(id resource.ID) resource.Resource {
	e.Link = id
	return e
}
