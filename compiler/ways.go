package compiler

import (
	"slices"
	"strings"

	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/reconciler/resource"
)

// The ways to carry services, as routing.services names them.
const (
	waySocket   = "socket"
	wayPacket   = "packet"
	wayNftables = "nftables"
	wayBoth     = waySocket + "+" + wayPacket
)

// way is one way, and what it asks for.
type way struct {
	name  string
	needs []features.Feature
	// either are features of which one is enough.
	either []features.Feature
}

// ways are in the order in which "auto" prefers them; it takes socket and packet together where both can be had.
var ways = []way{
	{waySocket, []features.Feature{
		features.Cgroup2, features.CgroupConnect4, features.CgroupConnect6, features.CgroupSendmsg4, features.CgroupSendmsg6,
		features.CgroupRecvmsg4, features.CgroupRecvmsg6, features.MapLRUHash,
	}, nil},
	{wayPacket, []features.Feature{features.GlobalData, features.MapLRUHash}, deviceHooks},
	{wayNftables, []features.Feature{features.NFTNat, features.NFTServices}, nil},
}

// deviceHooks attach programs to devices.
var deviceHooks = []features.Feature{features.TCX, features.Clsact}

// obstacle says why the way can't be had on this kernel; "" if it can.
func (w *way) obstacle(set *features.Set) string {
	for _, f := range w.needs {
		if !set.Supports(f) {
			return lacks(set, f)
		}
	}
	for _, f := range w.either {
		if set.Supports(f) {
			return ""
		}
	}
	if len(w.either) > 0 {
		return lacks(set, w.either[len(w.either)-1])
	}
	return ""
}

// wayOf is the way of a name.
func wayOf(name string) *way {
	return &ways[slices.IndexFunc(ways, func(w way) bool { return w.name == name })]
}

// chooseWay decides how the node carries services. It is "" where there are none, or where none of the ways can be had.
func (b *builder) chooseWay() string {
	wanted, path := b.cfg.Routing.Services, "routing.services"
	if b.node.Routing.Services != "" {
		wanted, path = b.node.Routing.Services, b.node.path+".routing.services"
	}
	not := map[string]string{}
	for i := range ways {
		if why := ways[i].obstacle(b.set); why != "" {
			not[ways[i].name] = why
		}
	}
	if asks(wanted) {
		if why, ok := not[wanted]; ok {
			b.add(path, "", "services can't be carried by %s: %s; %s", wanted, why, otherWays(not))
			return ""
		}
		if len(b.services) == 0 {
			return ""
		}
		b.choice("routing.services", wanted, wanted, "the files ask for it"+b.limits(wanted))
		return wanted
	}
	if len(b.services) == 0 {
		return ""
	}
	chosen, reason := autoWay(not)
	if chosen == "" {
		b.add(b.services[0].path, "", "services can't be carried on node %s: %s", b.node.name, reason)
		return ""
	}
	b.choice("routing.services", "auto", chosen, reason+b.limits(chosen))
	return chosen
}

// autoWay answers "auto"; not says which ways can't be had, and why.
func autoWay(not map[string]string) (chosen, reason string) {
	say := func(names ...string) string {
		s := ""
		for _, n := range names {
			s += "; not " + n + ": " + not[n]
		}
		return s
	}
	_, noSocket := not[waySocket]
	_, noPacket := not[wayPacket]
	switch {
	case !noSocket && !noPacket:
		return wayBoth, "connections are led to backends when they are made, at no cost for their packets; what no socket hook sees is translated on the pods' links"
	case !noSocket:
		return waySocket, "connections are led to backends when they are made, at no cost for their packets" + say(wayPacket)
	case !noPacket:
		return wayPacket, "packets are translated on the pods' links" + say(waySocket)
	case not[wayNftables] == "":
		return wayNftables, "the kernel's own address translation" + say(waySocket, wayPacket)
	}
	return "", strings.TrimPrefix(say(waySocket, wayPacket, wayNftables), "; ")
}

// otherWays says what could be asked for in the place of a way that can't be had.
func otherWays(not map[string]string) string {
	var can []string
	for _, w := range ways {
		if not[w.name] == "" {
			can = append(can, w.name)
		}
	}
	if len(can) == 0 {
		return "nor by any other way"
	}
	return "this machine can do " + strings.Join(can, ", ")
}

// limits says what a way does less well here, as further parts of a reason.
func (b *builder) limits(way string) string {
	s := ""
	switch way {
	case waySocket, wayBoth:
		if !b.set.Supports(features.NetNSCookie) {
			s += "; it acts for every process of the cgroup, whatever its namespace: " + lacks(b.set, features.NetNSCookie)
		}
		for _, f := range []features.Feature{features.CgroupGetpeername4, features.CgroupGetpeername6} {
			if !b.set.Supports(f) {
				return s + "; programs that ask for their peer are told the backend: " + lacks(b.set, f)
			}
		}
	case wayNftables:
		if slices.ContainsFunc(b.services, func(s *service) bool { return s.affinity > 0 }) {
			s += "; affinity goes by the client's address and has no end"
		}
		if slices.ContainsFunc(b.services, func(s *service) bool { return s.Algorithm == resource.RoundRobin }) {
			s += "; services with as many backends take turns together"
		}
	}
	return s
}

func (b *builder) choice(subject, wanted, chosen, reason string) {
	b.out.Choices = append(b.out.Choices, resource.Choice{Subject: subject, Wanted: wanted, Chosen: chosen, Reason: reason})
}
