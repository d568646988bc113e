/*
Package bpf is the data path: its programs and maps in C, compiled, and their layout in Go.

# Programs of sockets

Object socket acts when a connection is made, on the node's cgroup: connect4, connect6, sendmsg4 and sendmsg6 put a backend's
address in the place of the service's; recvmsg4, recvmsg6, getpeername4 and getpeername6 tell the program the service's
address again; sock_release forgets. What comes of it are packets that know nothing of services.

# Programs of packets

Object packet acts on the links of pods; object forward is the same without services.

	from_pod        ingress of the root namespace's end of a pod's pair (veth, netkit, a bridge's port)
	to_pod          egress of that end
	pod_egress      egress of a macvlan or ipvlan pod's own device
	pod_ingress     ingress of it
	uplink_ingress  of an uplink: of macvlan and ipvlan pods, or what goes past the stack to other hosts
	uplink_egress   of it
	detour_ingress  ingress of the root namespace's end of an ipvlan-l3 pod's pair to pods of other attachments

A service is translated next to its client, both ways, whatever is behind it: the client's from_pod or pod_egress makes the
destination a backend, its to_pod or pod_ingress makes the source of the answer the service. So everything in between, the
stack, its routes and its firewall, sees pods talk to each other, and a packet is never translated twice. One exception:
what goes straight into a pod doesn't pass its to_pod, so from_pod translates those answers on the backend's side, and
only those.

	client (veth)         10.0.0.10:4000 > 10.96.0.1:80
	  its from_pod        the source is its own; no pod has the destination; flow or frontend -> backend 10.0.0.20:8080,
	                      destination rewritten; that pod is in `endpoints` -> its MACs, one hop less, bpf_redirect_peer
	backend (veth)        10.0.0.20:8080 > 10.0.0.10:4000
	  its from_pod        the destination is in `endpoints` and can be reached straight; flow -> source 10.96.0.1:80;
	                      bpf_redirect_peer

	backend elsewhere     the packet passes the stack after from_pod, which routes it, to an uplink or another device;
	                      the answer comes through the stack to the client's to_pod; with host_routing neither does, and
	                      uplink_ingress makes the source of the answer the service
	client and backend    as on veth pairs: a bridge's ports are pairs too. Without redirect from_pod gives the frame the
	on one bridge         backend's MAC, so the bridge leads it there; the answer is bridged to the client's to_pod
	macvlan, ipvlan       pod_egress rewrites; a macvlan neighbour gets the frame by its MAC, ipvlan goes by addresses, an
	                      ipvlan-l3 pod sends to other attachments by its other device; the answer passes pod_ingress
	a pod that asks       the source becomes the service's address, or the pod would take the packet for a martian; the
	itself                frame turns around at the device; its answer, to the service's address, does the same

A service's address is never a pod's, so what goes to a pod of the node isn't looked up among services. What isn't marked
in `marked` isn't looked up among flows. So packets between pods cost two lookups, for the source check and the way there.

A service without backends is refused in its name, by RST or ICMP port unreachable. ICMP errors that quote a translated
packet are translated back, and fragments follow their first one. Frames with a VLAN tag are left alone, and so are packets
with more extension headers than anybody sends; packets that contradict themselves are dropped where pods send them.

What a pod receives straight may be larger than its device's MTU: devices take what comes, and it is one copy less than
fragments would be. At its last hop a packet passes the stack, which answers it.

# Past the stack to other hosts

With host_routing, from_pod asks the kernel's routes (bpf_fib_lookup) where a packet for no pod of the node leads. If that is
one of `uplinks`, it takes one hop off, counts it (`routed`) and hands the packet to bpf_redirect_neigh with the next hop; a
neighbour that isn't known yet is asked for there, and nobody tells the pod if none answers. To have the stack ask would bring
the pod an error; but then the stack has to let the packet through, and a firewall that drops what it saw no beginning of would keep
an uplink's neighbour unknown for good. uplink_ingress hands what is for a pod that has a pair to it, as from_pod does between
pods. Neither the node's hooks of netfilter nor its connection table see any of that.

All else passes the stack, which answers or routes it: what is for the node itself or for another device, what a route refuses,
what is at its last hop, has options that routers look at, or doesn't fit; what comes for a macvlan or ipvlan pod, or says
that it comes from a pod of this node. Up to kernel 5.11 the lookup knows the device's MTU alone, and of segments that are yet
to be cut nothing: for those `uplinks` has the MTUs. What comes from outside with the node's own address as its source
isn't told apart from the node: strict reverse path filters are the stack's.

The entries of `uplinks` switch both directions at once. They come when all programs are in place, and go before any of them
changes: a host whose firewall follows connections would drop those that it sees one direction of.

# The program of XDP

Object xdp has one program, uplink_xdp, on the earliest hook of an uplink. It counts what comes (`received`) and lets it pass.

# Flows

A flow has two entries in `flows`, one for the packets of each direction; each knows what its packets become, and so the
key of the other one. A flow keeps its backend, whatever becomes of the service, until it is over:

	TCP    60 s until it is answered, 6 h then, 10 s after both sides closed it or one of them reset it
	UDP    60 s until it is answered, 180 s then

after the last packet, which is noted once a second. That is looked at when the next packet comes; what is over and never
asked for again is swept by a timer, or goes when others need the room. A SYN that follows another after more than a second,
or a closed connection, starts anew: it may get another backend. Where only one of the two entries has gone, the client's
next packet restores it. A client can't have two flows to one backend from one port, by two services: the second is refused
room (`no-room`) as long as the first lives. Nor can it have one to the backend itself beside one by a service, as it may
come to when the way is changed: what it begins there ends what was closed, and over UDP anything; where the backend still
has the service's connection, the second SYN is refused by RST (`no-room`) and the client can ask by another port. Nobody
knows of connections to backends themselves: a flow that takes the port of one that is open breaks it.

# Masquerading

uplink_egress gives what pods of pairs send out the node's address and a port of 1024 to 32767, which the kernel gives none of
the node's own connections; an ICMP echo's id is its port. uplink_ingress gives what comes back the pod's. So the stack sees the
pod's address both ways, and flows are in `flows`, two entries each, as those of services are. Ports are tried by chance: a free
one, else one whose flow is over, else the one that was closed longest ago; what a socket of the node takes is left to it. Where
there is none, the packet is dropped (`no-room`), and the client asks again.

Destinations in `excluded` are left alone when a flow would begin, and so are segments of connections that began before or from
outside, answers to datagrams from outside, other protocols than TCP, UDP and ICMP echo, and pods of macvlan and ipvlan, which
don't pass the node. With masquerade_drain flows that there are live on, and none begins. An entry for answers that had to make
room comes back by the pod's next packet; if another flow has its port by then, the connection is lost.

# The source check

from_pod drops what has another source than the pod's own addresses, IPv4, IPv6, in ARP or in a neighbour advertisement. IPv6
link-local sources, duplicate address detection and DHCP may do without one; IPv4 link-local sources may not. On an uplink the
sender is known by its MAC: frames with a macvlan pod's MAC have to have its address, coming or going. ipvlan pods have the
uplink's MAC, as the node has; there, uplink_egress drops what this node didn't forward and yet has the address of a pod
that lives elsewhere; an address that is no pod's may be the node's, or that of somebody else's child of the uplink.
detour_ingress drops all but the pod's own addresses. Frames of strangers, and of the node, are never dropped.

# Limits

What a pod sends is limited where it leaves the node: uplink_egress gives each packet the time at which it may go, one after
the other at the pod's rate, and qdisc fq of the uplink keeps it until then. So no queue is the pod's own, and a packet that
its socket wants to leave later (BBR) isn't in the way of others. What would have to wait for more than 100 ms is dropped
(`too-fast`), unless that is less than 512 KiB. fq holds so much, also of one flow: with as little as the kernel lets a flow
have, fq would drop what has had its time, and a pod whose packets come without their sockets, through the stack, would get
100 packets in all that time. What stays on the node passes no uplink, and isn't limited.

What a pod gets is limited by a qdisc of the pair's end in the root namespace, which bpf_redirect_peer goes past. Packets for
such pods are redirected to that end instead, so they pass its to_pod, and from_pod leaves their answers to it.

# Maps

	frontends, slots, members, maglev_*   services: what is asked for, who answers, where a backend stands, tables
	endpoints, macs, namespaces           pods: by address, by MAC (macvlan), by their namespaces' cookies
	uplinks                               devices that lead out of the node, and their MTUs
	paces                                 how fast pods send, by address
	flows, marked, fragments              translated flows; where there may be any; ports of fragments
	asked                                 who is answered by a pod's own address
	affinities                            clients of services with affinity
	sock_forward, sock_reverse            what sockets asked for, and what they got
	counters                              packets by what became of them
	swept                                 the timer

Configuration alone is in the first three lines, but for the times in `paces`; the rest is learnt.
*/
package bpf
