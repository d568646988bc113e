package addr

import (
	"fmt"
	"net/netip"
	"slices"

	"plumb.internal/plumb/reconciler/resource"
)

// Conflicts implements reconciler.Conflicter. The kernel accepts one address on two devices, and a pod's address on a
// device of the root namespace, without a word; then the foreign one wins.
func (Ops) Conflicts(desired resource.State, foreign []Addr) []resource.Conflict {
	type key struct {
		netns string
		addr  netip.Addr
	}
	wanted := map[netip.Addr]resource.ID{} // of pods: a local address of the root namespace hides them
	local := map[key]resource.ID{}
	first6 := map[string]resource.ID{} // by namespace; all pods' packets pass the root one
	type podRange struct {
		prefix netip.Prefix
		id     resource.ID
	}
	var ranges []podRange
	for _, id := range desired.Where(speaks) {
		switch r := desired[id].(type) {
		case Addr:
			ip := r.Prefix.Addr()
			local[key{r.NetNS, ip}] = id
			if _, ok := wanted[ip]; !ok && !ip.IsLinkLocalUnicast() {
				wanted[ip] = id
			}
			if ip.Is6() && !ip.IsLinkLocalUnicast() {
				for _, netns := range []string{r.NetNS, ""} {
					if _, ok := first6[netns]; !ok {
						first6[netns] = id
					}
				}
			}
		case resource.PodPrefixer:
			if p, ok := r.PodRange(); ok {
				ranges = append(ranges, podRange{p, id})
			}
		}
	}
	var conflicts []resource.Conflict
	for _, f := range foreign {
		ip := f.Prefix.Addr()
		if f.Trouble == disableIPv6 {
			if id, ok := first6[f.NetNS]; ok {
				conflicts = append(conflicts, f.off(id))
			}
			continue
		}
		id, ok := local[key{f.NetNS, ip}]
		if ip.IsLinkLocalUnicast() {
			// A link-local address belongs to its link: only the same link is a clash.
			id = Addr{NetNS: f.NetNS, Dev: f.Dev, Prefix: f.Prefix}.ID()
			_, ok = desired[id]
		} else if !ok && f.NetNS == "" {
			id, ok = wanted[ip]
		}
		if ok {
			conflicts = append(conflicts, f.conflict(desired, id, "the same address"))
			continue
		}
		if f.NetNS != "" {
			continue
		}
		i := slices.IndexFunc(ranges, func(r podRange) bool { return r.prefix.Contains(ip) })
		if i >= 0 {
			conflicts = append(conflicts, f.conflict(desired, ranges[i].id, "an address inside the pod range "+ranges[i].prefix.String()))
		}
	}
	return conflicts
}

func (a Addr) conflict(desired resource.State, id resource.ID, what string) resource.Conflict {
	return resource.Conflict{
		ID:      id,
		Foreign: fmt.Sprintf("address %s dev %s", a.Prefix, a.Dev),
		Owner:   a.owner(),
		Fix:     fmt.Sprintf("%s: take it away (%s addr del %s dev %s), or give the pods another one", what, desired.IPCommand(a.NetNS, false), a.Prefix, a.Dev),
	}
}

// disableIPv6 is the setting by which a new device has no IPv6.
const disableIPv6 = "net.ipv6.conf.default.disable_ipv6"

// off is the conflict with a namespace whose IPv6 is switched off, and in which id can't be added or reached.
func (a Addr) off(id resource.ID) resource.Conflict {
	where, all := "", "net.ipv6.conf.all.disable_ipv6=0"
	if a.NetNS != "" {
		where = " in pod " + a.NetNS
	}
	return resource.Conflict{
		ID:      id,
		Foreign: "setting " + disableIPv6 + " = 1" + where,
		Owner:   resource.Unmarked,
		Fix:     "switch IPv6 on" + where + " (sysctl -w " + all + "), or name no IPv6 podCIDR and address",
	}
}

func (a Addr) owner() string {
	switch a.Protocol {
	case 0:
		return resource.Unmarked
	case 1, 2, 3:
		return "protocol " + [...]string{"kernel_lo", "kernel_ra", "kernel_ll"}[a.Protocol-1]
	case resource.Protocol:
		return resource.ProtocolOwner(a.Protocol)
	}
	return fmt.Sprintf("protocol %d", a.Protocol) // numbers of addresses have a table of their own
}

// speaks reports whether Conflicts goes by r.
func speaks(r resource.Resource) bool {
	switch r.(type) {
	case Addr, resource.PodPrefixer:
		return true
	}
	return false
}
